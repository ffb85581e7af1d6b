"""Rows as a person reads them in a notebook: `browse(samples)`."""

from __future__ import annotations

from datakit.browse.browser import browse as browse
