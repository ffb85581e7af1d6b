"""The commands that there are, and what is said where one is named that there is not."""

from __future__ import annotations

import inspect
import os
import shlex
from collections.abc import Sequence

import luigi
from luigi.task_register import Register, TaskClassNotFoundException

from pipelines.cli import invocation
from pipelines.cli.console import say_error
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest
from trainers.registry import algorithms

_METHODS = {
    "rm": "RewardModel",
    "kd": "Distill",
    "raft": "RejectionSamplingIteration",
}
"""What methods are called, and the recipe of each; those that compare answers are read off the algorithms."""


def commands() -> dict[str, type[luigi.Task]]:
    """Every command, by name: tasks that check their graph before it runs (`pipelines.commands.command`)."""
    kinds = {name: kind for name, kind in sorted(Register._get_reg().items()) if isinstance(kind, type)}
    return {
        name: kind
        for name, kind in kinds.items()
        if hasattr(kind, "before") and not inspect.isabstract(kind) and not name.startswith("_")
    }


class UnknownTask(SystemExit, TaskClassNotFoundException):
    """Ends a command line that names no task with exit code 2; for everyone else it is Luigi's own exception."""

    def __init__(self, name: str) -> None:
        super().__init__(ConfigError.code)
        ours = list(commands())
        near = near_task(name, ours)
        error = ConfigError(
            "unknown-task",
            f"there is no task {printable(name)}",
            expected="" if near else ", ".join(ours),
            kept="nothing was started",
            next=invocation.renamed(name, near) if near else "luigi --module pipelines --help",
            wrong=(name,),
            nearest=near,
        )
        say_error(error)


class UnknownModule(SystemExit):
    """Ends a command line whose `--module` cannot be imported with exit code 2."""

    def __init__(self, module: str, fault: Exception) -> None:
        super().__init__(ConfigError.code)
        top = module.partition(".")[0]
        is_here = isinstance(fault, ModuleNotFoundError) and fault.name == top and _lies_here(top)
        error = ConfigError(
            "no-module",
            f"--module {printable(module)} cannot be imported",
            expected="a Python module that is installed, or that lies in a folder of PYTHONPATH: nothing is imported "
            "from the working folder by itself",
            found=f"{type(fault).__name__}: {printable(fault, 200)}"
            + (f"; {printable(top)} lies in the working folder" if is_here else ""),
            kept="nothing was started",
            next=f"PYTHONPATH=. {shlex.join(invocation.again())}" if is_here else "python -m pip list",
        )
        say_error(error)


def _lies_here(module: str) -> bool:
    return os.path.isfile(f"{module}.py") or os.path.isfile(os.path.join(module, "__init__.py"))


def near_task(name: str, known: Sequence[str]) -> str:
    """The known task that `name` is likeliest to mean, whatever its case; a whole word of a task's name will do."""
    compares = {one.name for one in algorithms().values() if one.implicit_reward}
    near = "Preference" if name.lower() in compares else _METHODS.get(name.lower(), "")
    near = near if near in known else nearest(name, known, 0.7)
    if near:
        return near
    parts = [task for task in known if len(name) > 2 and name.lower().replace("_", "") in task.lower()]
    return min(parts, key=len, default="")
