"""Figures that recipes file of their results, of what manifests hold; no command runs them alone. Re-exports are the
registry.
"""

from __future__ import annotations

from datakit.report.measure import Measure as Measure
