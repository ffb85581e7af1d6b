"""Benchmarks that a model is measured by, one a file. Re-exports are the registry."""

from __future__ import annotations

from pipelines.suites.bbq import BBQ as BBQ
from pipelines.suites.code import CODE as CODE
from pipelines.suites.gsm8k import GSM8K as GSM8K
from pipelines.suites.ifeval import IFEVAL as IFEVAL
from pipelines.suites.mcqa import MCQA as MCQA
from pipelines.suites.model_written import MODEL_WRITTEN as MODEL_WRITTEN
from pipelines.suites.rewardbench import REWARDBENCH as REWARDBENCH
from pipelines.suites.toxigen import TOXIGEN as TOXIGEN
from pipelines.suites.truthfulqa import TRUTHFULQA as TRUTHFULQA
from pipelines.suites.win_rate import WIN_RATE as WIN_RATE
from pipelines.suites.xstest import XSTEST as XSTEST
