"""Settings as flags: the parameters that a command takes, by name, and plain values as words of its command line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

import luigi
from luigi.freezing import recursively_unfreeze
from luigi.task_register import Register

from pipelines.cli import invocation, near_flags
from pipelines.cli.known_commands import commands
from pipelines.cli.learning import AssignmentsParameter
from pipelines.cli.parameters import older_names
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest

_SINGLE = luigi.IntParameter | luigi.FloatParameter | luigi.BoolParameter | luigi.ChoiceParameter


def parameters_of(task: str) -> dict[str, luigi.Parameter[Any]]:
    """What may be set for `task`, by the name of the flag with underscores."""
    kinds = {name: kind for name, kind in Register._get_reg().items() if isinstance(kind, type)}
    known = list(commands())
    if task not in known:
        raise ConfigError(
            "unknown-task",
            f"there is no task {printable(task)}",
            expected=", ".join(known),
            kept="nothing was started",
            wrong=(str(task),),
            nearest=nearest(str(task), known),
        )
    flags: dict[str, luigi.Parameter[Any]] = {}
    for owner, is_without_section, name, parameter in Register.get_all_params():
        if owner == task or is_without_section:
            flags[name] = parameter
        if issubclass(kinds.get(owner, object), luigi.Config):
            flags[f"{owner}_{name}"] = parameter
    return flags | {older: flags[name] for older, name in older_names(kinds[task]).items()}


def words_of(task: str, flags: Mapping[str, luigi.Parameter[Any]], name: str, value: Any) -> list[str]:
    """The setting `name` of `task` as words of a command line; `ConfigError` for what is none of its `flags`, or no
    value of such a flag.
    """
    if name not in flags:
        raise ConfigError(
            "unknown-parameter",
            f"{task} has no parameter {printable(name)}",
            kept="nothing was started",
            next=f"luigi --module pipelines {task} --help",
            wrong=(name,),
            nearest=near_flags.of_python(task, name),
        )
    flag, parameter = invocation.flag_of(name), flags[name]
    if isinstance(parameter, luigi.BoolParameter) and parameter.parsing == luigi.BoolParameter.IMPLICIT_PARSING:
        return [flag] if value else []
    if isinstance(parameter, AssignmentsParameter):
        return [f"{flag}={one}" for one in _assignments(name, value)]
    if isinstance(value, Mapping | list | tuple) and isinstance(parameter, luigi.DictParameter | luigi.ListParameter):
        return [f"{flag}={_json(name, recursively_unfreeze(value))}"]
    if isinstance(value, list | tuple) and not isinstance(parameter, _SINGLE):
        return [f"{flag}={','.join(map(str, value))}"]
    if isinstance(value, Mapping | list | tuple | set | frozenset | bytes):
        raise _wrong(name, value, "a text, a number, or a list of texts")
    return [f"{flag}={'' if value is None else value}"]


def _assignments(name: str, value: Any) -> list[str]:
    """Texts `key=value` of one, of several, or of a mapping."""
    if isinstance(value, Mapping):
        return [f"{key}={_json(name, one)}" for key, one in value.items()]
    if value is None or isinstance(value, str):
        return [value] if value else []
    if not isinstance(value, list | tuple):
        raise _wrong(name, value, "texts such as 'optim.lr=1e-4', or a mapping of keys to values")
    return [str(one) for one in value]


def _json(name: str, value: Any) -> str:
    """JSON of a Python value, of numpy's numbers and of paths too."""

    def plain(one: Any) -> Any:
        if isinstance(one, os.PathLike):
            return os.fspath(one)
        if hasattr(one, "item"):
            return one.item()
        raise TypeError

    try:
        return json.dumps(value, default=plain)
    except (TypeError, ValueError, RecursionError):
        raise _wrong(name, value, "a value that JSON can hold") from None


def _wrong(name: str, value: Any, expected: str) -> ConfigError:
    return ConfigError(
        "bad-parameter",
        f"{name}: {printable(repr(value))} cannot be handed on",
        expected=expected,
        found=f"a {type(value).__name__}",
        kept="nothing was started",
    )
