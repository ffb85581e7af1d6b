"""Luigi tasks that make nodes, one for each kind of node; importing a module here registers what it makes."""

from __future__ import annotations

from pipelines.makers.images import FitImages as FitImages
from pipelines.makers.models import Convert as Convert
from pipelines.makers.models import ImportHF as ImportHF
from pipelines.makers.online import FitOnline as FitOnline
from pipelines.makers.table import Apply as Apply
from pipelines.makers.training import Fit as Fit
