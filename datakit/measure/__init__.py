"""Figures of rows as REPORTS datasets, with intervals. Re-exports are the registry."""

from __future__ import annotations

from datakit.measure.agreement import Agreement as Agreement
from datakit.measure.difference import Difference as Difference
from datakit.measure.mean import Mean as Mean
from datakit.measure.win_rate import WinRate as WinRate
