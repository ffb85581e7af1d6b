"""`python -m pipelines.commands.explaining TASK ...`: what a command would run and why; nothing is run or written.

It builds the graph as the command does, and says of every stage that is missing why it would run, and about how many
rows and bytes it would make; of what stands where the work begins, that it is reused.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import luigi

from pipelines.commands.command import Command
from pipelines.commands.outlook import lines
from pipelines.runtime.command import planned, run
from schemas.errors import ConfigError
from schemas.process import program

_JSON = "--json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Explain the command in `arguments`, as one object with `--json` among them; exit codes are the command's own."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = _JSON in words
    sys.argv[0] = "quiver"  # so that an error names the command as `quiver TASK ...`
    run(["--module", "pipelines", *(word for word in words if word != _JSON)],
        how=lambda given: planned(given, lambda task: _print(command_of(task).outlook(), as_json)))  # fmt: skip
    return 0


def command_of(task: luigi.Task) -> Command:
    """`task` as the command that it is; `ConfigError` where it is none of ours."""
    if isinstance(task, Command):
        return task
    raise ConfigError(
        "unknown-command",
        f"{task.task_family} is one stage of a graph, and nobody's command",
        expected="a recipe or a stage that quiver --help lists",
        kept="nothing was started",
        next="quiver --help",
    )


def _print(explained: dict[str, Any], as_json: bool) -> None:
    print(json.dumps(explained, indent=1) if as_json else "\n".join(lines(explained)))


if __name__ == "__main__":
    program.run(main)
