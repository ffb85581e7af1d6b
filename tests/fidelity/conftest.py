"""Puts the engine's import hook in place before any test module names Megatron-Core."""

from __future__ import annotations

import trainers.engine  # noqa: F401 - for its effect
