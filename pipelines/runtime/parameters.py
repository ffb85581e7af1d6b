"""Parameters that refuse what cannot be, and Luigi's complaints about them in our words: which one, what was given,
what would do.
"""

from __future__ import annotations

import argparse
import functools
import json
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import luigi
import luigi.configuration
from luigi.cmdline_parser import CmdlineParser
from luigi.freezing import recursively_freeze, recursively_unfreeze
from luigi.parameter import ParameterException, _no_value
from luigi.task_register import Register

from pipelines.runtime import invocation, near_flags
from pipelines.runtime.console import say_error
from pipelines.runtime.near_flags import SETTING_FLAGS
from schemas.errors import ConfigError, printable
from schemas.settings import assigned
from schemas.untrusted import exact_json
from trainers.config import Training, merged

_UNKNOWN = "unrecognized arguments: "


class Whole(luigi.IntParameter):
    """A whole number from `least` on."""

    def __init__(self, *, least: int = 1, **options: Any) -> None:
        super().__init__(**options)
        self.least = least

    def parse(self, x: str) -> int:
        """The number; `ValueError` says what is wrong with it."""
        try:
            value = int(x)
        except ValueError:
            raise ValueError(f"{x!r} is not a whole number") from None
        if value < self.least:
            raise ValueError(f"{value} is below {self.least}, the least there can be")
        return value


class Number(luigi.FloatParameter):
    """A number from `least` to `most`."""

    def __init__(self, *, least: float = float("-inf"), most: float = float("inf"), **options: Any) -> None:
        super().__init__(**options)
        self.least, self.most = least, most

    def parse(self, x: str) -> float:
        """The number; `ValueError` says what is wrong with it."""
        try:
            value = float(x)
        except ValueError:
            raise ValueError(f"{x!r} is not a number") from None
        if not self.least <= value <= self.most:
            raise ValueError(f"{x} is not between {self.least:g} and {self.most:g}")
        return value


class OptionalWhole(Whole):
    """A whole number from `least` on, or nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"default": None, **options})

    def parse(self, x: str) -> Any:
        """The number; None for an empty text."""
        return super().parse(x) if x else None

    def serialize(self, x: int | None) -> str:
        """The number's text, or an empty one."""
        return "" if x is None else str(x)


class OptionalNumber(Number):
    """A number from `least` to `most`, or nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"default": None, **options})

    def parse(self, x: str) -> Any:
        """The number; None for an empty text."""
        return super().parse(x) if x else None

    def serialize(self, x: float | None) -> str:
        """The number's text, or an empty one."""
        return "" if x is None else str(x)


class ObjectParameter(luigi.DictParameter):
    """A JSON object; a key that it gives twice, and any other JSON, is refused."""

    def parse(self, x: str) -> Any:
        """The object; `ValueError` for any other JSON."""
        return _of_kind(super().parse, x, Mapping, """an object: '{"key": value}'""")


class ListParameter(luigi.ListParameter):
    """A JSON list; a bare value is refused with the list that was meant."""

    def parse(self, x: str) -> Any:
        """The list; `ValueError` for any other JSON."""
        return _of_kind(super().parse, x, list | tuple, f"a list: {shlex.quote(_listed(x))}")


class MergedParameter(ObjectParameter):
    """A JSON object over the parameter's default: what it does not name stays what it is there.

    The user's configuration lies over the default in the same way, and the command line over both. `kind` is the
    dataclass whose settings it holds: what `--set` may name.
    """

    def __init__(self, *, default: dict[str, Any], kind: type = Training, **options: Any) -> None:
        super().__init__(default=default, **options)
        self.default, self.kind = default, kind

    def __set_name__(self, owner: type, name: str) -> None:
        super().__set_name__(owner, name)
        self._place = (owner.__name__, name)

    def normalize(self, x: Any) -> Any:
        configured = luigi.configuration.get_config().get(*self._place, "")
        whole: Mapping[str, Any] = self.default
        for layer in (self.parse(configured) if configured else {}, x):
            whole = merged(whole, recursively_unfreeze(layer))
        return recursively_freeze(whole)


class RenamedParameter(luigi.Parameter[Any]):
    """A text whose flag and configuration key were called `older` once, which still works."""

    def __init__(self, *, older: str, **options: Any) -> None:
        super().__init__(**options)
        self.older = older

    def __set_name__(self, owner: Any, name: str) -> None:
        super().__set_name__(owner, name)
        owner.ignore_unconsumed = {*getattr(owner, "ignore_unconsumed", ()), self.older}

    def _get_value_from_config(self, section: str, name: str) -> Any:
        value = super()._get_value_from_config(section, name)
        return super()._get_value_from_config(section, self.older) if value is _no_value else value


def older_names(kind: type[luigi.Task]) -> dict[str, str]:
    """Names that parameters of `kind` had once, each with today's."""
    return {parameter.older: name for name, parameter in kind.get_params() if isinstance(parameter, RenamedParameter)}


class AssignmentsParameter(luigi.Parameter[Any]):
    """Texts `key=value`; the flag may be given again and again."""

    @classmethod
    def _parser_kwargs(cls, param_name: str, task_name: str | None = None) -> dict[str, Any]:
        return {**super()._parser_kwargs(param_name, task_name), "action": "append"}

    def parse(self, x: str | Sequence[str]) -> tuple[str, ...]:
        """The texts; in a configuration file they are a JSON list."""
        return tuple(map(str, json.loads(x))) if isinstance(x, str) else tuple(x)

    def serialize(self, x: Sequence[str]) -> str:
        return json.dumps(list(x))


def assigned_to(assignments: Sequence[str], own: str, *sections: type[luigi.Task]) -> dict[str, dict[str, Any]]:
    """What texts `key=value` say, by the merged parameter of `sections` that they are about: the one that the key
    begins with (`base.optim.lr=1e-3`), otherwise `own`.
    """
    kinds = {
        name: parameter.kind
        for section in sections
        for name, parameter in section.get_params()
        if isinstance(parameter, MergedParameter)
    }
    about: dict[str, list[str]] = {}
    for assignment in assignments:
        first, dot, rest = assignment.partition("=")[0].partition(".")
        name = first if dot and rest and first in kinds else own
        about.setdefault(name, []).append(assignment if name == own != first else assignment[len(first) + 1 :])
    return {name: assigned(kinds[name], texts, where=f"--set of {name}") for name, texts in about.items()}


def assignments_of(command: Any) -> list[str]:
    """What `--set` and the flags of `SETTING_FLAGS` say, as texts `key=value`."""
    flags = {path: getattr(command, name, None) for name, path in SETTING_FLAGS.items()}
    return [*command.set, *(f"{path}={value}" for path, value in flags.items() if value is not None)]


def learning_of(command: Any) -> dict[str, Any]:
    """What `--learning` asks for, and over it `--set` and the flags of `SETTING_FLAGS`; `ConfigError` for a setting
    that two of these give.
    """
    changes = assigned_to(assignments_of(command), "learning", type(command))
    return merged(recursively_unfreeze(command.learning), changes.get("learning", {}))


def _of_kind(parse: Any, text: Any, kind: Any, words: str) -> Any:
    try:
        value = parse(text)
        if isinstance(text, str):
            exact_json(text)
    except (json.JSONDecodeError, TypeError, RecursionError):
        value = None
    except ValueError as fault:
        raise ValueError(f"{text}: {fault}") from None
    if not isinstance(value, kind):
        raise ValueError(f"{text} is not JSON of {words}")
    return value


def install() -> None:
    """Have Luigi's parser know the older names of flags and no flag by its beginning (`--lr` is not `--lr-decay`), and
    end the process with our error (exit code 2) where argparse would print its usage.
    """
    build = CmdlineParser._build_parser

    def refusing(root_task: str | None = None, **options: Any) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = build(root_task=root_task, **options)
        if root_task:
            parameters = dict(Register.get_task_cls(root_task).get_params())
            for older, name in older_names(Register.get_task_cls(root_task)).items():
                parser.add_argument(f"--{older}", help=argparse.SUPPRESS, **parameters[name]._parser_kwargs(name))
        parser.allow_abbrev = False
        parser.error = functools.partial(_refuse, root_task)  # type: ignore[method-assign,assignment]
        return parser

    CmdlineParser._build_parser = staticmethod(refusing)  # type: ignore[method-assign,assignment]


def unreadable(kind: type[luigi.Task], given: Mapping[str, str | None]) -> str:
    """Which parameter of `kind` has a value that cannot be read, and why: from `given` (texts of the command line) or
    from the configuration; empty if all can.
    """
    for name, parameter in kind.get_params():
        try:
            text = given.get(name)
            if text:
                parameter.parse(text)
            else:
                parameter._get_value(kind.get_task_family(), name)
        except (ParameterException, ValueError) as fault:
            return f"{name}: {printable(fault_words(parameter, fault), 200)}"
    return ""


def fault_words(parameter: luigi.Parameter[Any], fault: Exception) -> str:
    """Why `parameter` cannot have a value, which it has refused with `fault`."""
    choices = getattr(parameter, "_choices", None)
    return _in_words(str(fault)) if choices is None else f"one of {', '.join(sorted(map(str, choices)))} is needed"


def _in_words(fault: str) -> str:
    """What Luigi's own parameters hand on from Python, as ours say it."""
    whole = fault.removeprefix("invalid literal for int() with base 10: ")
    number = fault.removeprefix("could not convert string to float: ")
    return (
        f"{whole} is not a whole number"
        if whole != fault
        else f"{number} is not a number"
        if number != fault
        else fault
    )


def readable(kind: type[luigi.Task], given: Mapping[str, str | None]) -> str:
    """The command with a list where a bare value stands for one; the page about it where nothing is as certain."""
    for name, parameter in kind.get_params():
        text = given.get(name)
        if text and isinstance(parameter, ListParameter) and not text.startswith("["):
            flag = f"--{name.replace('_', '-')}"
            return invocation.replaced(flag, flag, _listed(text))
    return invocation.typed(f"{kind.get_task_family()} --help")


def _listed(text: str) -> str:
    """`text` as a JSON list of one."""
    try:
        return json.dumps([json.loads(text)])
    except (ValueError, TypeError, RecursionError):
        return json.dumps([text])


def refuse_missing(kind: type[luigi.Task], given: Mapping[str, str | None]) -> None:
    """`ConfigError` for parameters of `kind` that have no default and that nothing gives, with an example of it."""
    family = kind.get_task_family()
    needed = {
        name.replace("_", "-"): parameter.description or ""
        for name, parameter in kind.get_params()
        if not given.get(name) and not _is_set(parameter, family, name)
    }
    if needed:
        raise ConfigError(
            "missing-parameter",
            f"{family} needs {' and '.join(f'--{name}' for name in needed)}",
            expected="; ".join(f"{name}: {about}" for name, about in needed.items()),
            kept="nothing was started",
            next=invocation.completed(getattr(kind, "example", "")),
        ) from None


def _is_set(parameter: luigi.Parameter[Any], family: str, name: str) -> bool:
    """Whether a default or a configuration gives the parameter a value, be it one that cannot be read."""
    try:
        return parameter.has_task_value(family, name)
    except (ParameterException, ValueError):
        return True


def _refuse(task: str | None, why: str) -> NoReturn:
    say_error(_refusal(task, why))
    raise SystemExit(ConfigError.code)


def _refusal(task: str | None, why: str) -> ConfigError:
    words = why.removeprefix(_UNKNOWN).split()
    flag = next((word.partition("=")[0] for word in words if word.startswith("-")), "")
    page = invocation.typed(f"{printable(task)} --help" if task else "--help")
    if why.startswith(_UNKNOWN) and flag:
        hint, command = near_flags.hint(task, flag)
        what = f"there is no parameter {printable(flag)}{hint}"
        return ConfigError("unknown-parameter", what, kept="nothing was started", next=command or page)
    if why.startswith(_UNKNOWN) and task:
        return _stray(words, page)
    return ConfigError("command-line", printable(why, 300), kept="nothing was started", next=page)


def _stray(words: Sequence[str], page: str) -> ConfigError:
    """What is said of words that stand behind no flag: mostly matches of a pattern, which the shell has put there."""
    flag, value = invocation.before(words[0])
    several = [value, *words]
    return ConfigError(
        "stray-words",
        f"{flag} was given {len(several)} values" if flag else f"{printable(words[0])} stands behind no flag",
        expected="one value for each flag; where a flag takes several places, commas between them",
        found=printable(", ".join(filter(None, several)), 300),
        kept="nothing was started",
        next=invocation.replaced(flag, flag, value, drop=words) if flag else page,
    )
