"""The command `quiver`, and the lists and the reference page that are made of the registries."""

from __future__ import annotations

__version__ = "0.1.0"
