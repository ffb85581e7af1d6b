"""Figures of a run, and the ways to show them, one file each: this list is the registry."""

from __future__ import annotations

from pipelines.report.table import TABLE as TABLE

from pipelines.report.html import PAGE as PAGE  # isort: skip - the table comes first
from pipelines.report.tracked import TRACKED as TRACKED  # isort: skip - where both are is said last
