"""Algorithms over images, one file each: this list is the registry."""

from __future__ import annotations

from trainers.images.algorithms.draft_plus import DRAFT_PLUS as DRAFT_PLUS
