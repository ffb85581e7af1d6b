"""What a preview of a graph puts between its stages; no command runs them alone. Re-exports are the registry."""

from __future__ import annotations

from datakit.preview.made_up import MadeUp as MadeUp
