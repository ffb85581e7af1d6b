"""Luigi tasks over nodes: recipes and stages, each a small graph of operations and training runs.

    luigi --module pipelines RestIteration                 a recipe
    luigi --module pipelines Generate --model ...          one stage
    pipelines.run("RestIteration", iteration=1)            the same from Python
    pipelines.commit("SELECT ...", samples, name="...")    a query becomes a dataset

    graph/       the graph as plain values: keys, places, checks       (nothing runs)
    runtime/     the generic Luigi task, settings, errors, exit codes, signals
    cli/         the command line: what it says, and what a user sees on it
    makers/      a Luigi task for each kind of node
    commands/    what a user asks for; recipes/ are commands with a graph of several stages

Importing this package makes Luigi safe (see `settings` and `command`). It loads neither torch nor Megatron nor polars.
"""

from __future__ import annotations

from trainers import doors as doors  # isort: skip - it closes the working folder to all imports below

from pipelines.cli import config_files

config_files.check_files()

from pipelines.runtime import command, settings  # noqa: E402 - they import Luigi, which reads the files at once

settings.install()
command.install()

from pipelines import backends as backends  # noqa: E402 - what a model may be stands in flags of what follows
from pipelines import makers as makers  # noqa: E402
from pipelines import recipes as recipes  # noqa: E402
from pipelines.cli import parsers as parsers  # noqa: E402
from pipelines.commands import curation as curation  # noqa: E402
from pipelines.commands import evaluation as evaluation  # noqa: E402
from pipelines.commands import images as images  # noqa: E402
from pipelines.commands import models as models  # noqa: E402
from pipelines.commands import previewing as previewing  # noqa: E402
from pipelines.commands import stages as stages  # noqa: E402
from pipelines.commands import usage as usage  # noqa: E402
from pipelines.commands.interactive import commit as commit  # noqa: E402
from pipelines.commands.interactive import mark as mark  # noqa: E402
from pipelines.commands.interactive import run as run  # noqa: E402

usage.install()
parsers.install()
