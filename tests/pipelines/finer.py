"""`luigi --module finer ...`: pipelines whose prompts are cut into shards of 50, not 128."""

from __future__ import annotations

import sys

import pipelines

SHARD = 50

for _module in [module for name, module in sys.modules.items() if name.startswith("pipelines")]:
    if hasattr(_module, "PROMPTS_PER_SHARD"):
        _module.PROMPTS_PER_SHARD = SHARD

assert pipelines.recipes.RestIteration.title == "rest"
