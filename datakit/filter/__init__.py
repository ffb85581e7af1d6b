"""Filters: which rows stay; those that go are set aside with a reason."""

from __future__ import annotations

from datakit.filter.best_of import BestOf as BestOf
from datakit.filter.decontaminate import Decontaminate as Decontaminate
from datakit.filter.dedup_exact import DedupExact as DedupExact
from datakit.filter.dedup_near import DedupNear as DedupNear
from datakit.filter.not_in import NotIn as NotIn
from datakit.filter.not_null import NotNull as NotNull
from datakit.filter.threshold import Threshold as Threshold
from datakit.filter.where import Where as Where
from datakit.filter.window import Window as Window
from datakit.filter.zero_variance import ZeroVariance as ZeroVariance
