"""Constitutions: principles by which answers are criticised, revised and compared, and dialogues that show how."""

from __future__ import annotations
