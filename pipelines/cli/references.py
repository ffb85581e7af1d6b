"""`--model`, in every command a reference to a model, and the older flags that mean the same."""

from __future__ import annotations

from typing import Any

import luigi

from pipelines.cli import invocation
from pipelines.graph.backend import Role, backends
from schemas.errors import ConfigError, printable


def model_parameter(what: str, *roles: Role) -> Any:
    """`--model`; `what` it is here, which of `roles` it is asked to be: without any, its weights are read."""
    able = [one for one in backends() if ({*roles} & one.roles.keys() if roles else one.kind == "checkpoint")]
    return luigi.Parameter(default="", description=f"{what}: {', '.join(one.form for one in able)}")


def reference(command: Any, alias: str, *, required: bool = True) -> str:
    """The model that `command` names with `--model` or with the older flag `alias`; `ConfigError` for none, for two
    that differ, and for the shape of a fresh network.
    """
    model, older = command.model, getattr(command, alias)
    flag = invocation.flag_of(alias)
    if model and older and model != older:
        raise ConfigError(
            "bad-setting",
            f"--model {printable(model, 100)} and {flag} {printable(older, 100)} are the same flag",
            kept="nothing was started",
            next=invocation.without(flag),
        )
    given: str = model or older
    if given.startswith("{"):
        raise ConfigError(
            "bad-setting",
            "--model names a model; the shape of a fresh network is --architecture",
            found=printable(given, 100),
            kept="nothing was started",
            next=f"--architecture '{printable(given, 300)}'",
        )
    if required and not given:
        raise ConfigError(
            "missing-parameter",
            f"{command.task_family} needs --model",
            expected="a checkpoint folder, a Hugging Face folder, ...",
            kept="nothing was started",
            next=invocation.completed(command.example),
        )
    return given
