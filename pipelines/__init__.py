"""Luigi tasks over nodes: recipes and verbs, each a small graph of operations and training runs.

    luigi --module pipelines RestIteration                 a recipe
    luigi --module pipelines Generate --model ...          one stage

    plan.py      the graph as plain values; keys, places, checks       (nothing runs)
    tasks.py     the generic Luigi tasks: Apply (datakit), Fit (trainers.run)
    goals.py     what a user asks for; verbs.py and recipes/ are goals
    settings.py  packaged defaults (luigi.cfg) and a safe Luigi        command.py  errors, exit codes, signals

Importing this package makes Luigi safe (see `settings` and `command`). It loads neither torch nor Megatron nor polars.
"""

from __future__ import annotations

from trainers import doors as doors  # isort: skip - it closes the working folder to all imports below

from pipelines.runtime import command, settings

settings.install()
command.install()

from pipelines import recipes as recipes  # noqa: E402
from pipelines.commands import models as models  # noqa: E402
from pipelines.commands import stages as stages  # noqa: E402
