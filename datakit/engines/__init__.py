"""Rows that engines of other programs are held against before they are believed; no command makes them alone.
Re-exports are the registry.
"""

from __future__ import annotations

from datakit.engines.known import KnownLogprobs as KnownLogprobs
