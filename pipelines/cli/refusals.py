"""Luigi's complaints about flags and their values in our words: which one, what was given, what would do."""

from __future__ import annotations

import argparse
import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

import luigi
from luigi.cmdline_parser import CmdlineParser
from luigi.configuration import get_config
from luigi.parameter import ParameterException, _no_value
from luigi.task_register import Register

from pipelines.cli import invocation, near_flags
from pipelines.cli.config_files import stated_at
from pipelines.cli.console import say_error
from pipelines.cli.parameters import ListParameter, ObjectParameter, PreviewRows, as_list, older_names
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest

_UNKNOWN = "unrecognized arguments: "


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


def unreadable(kind: type[luigi.Task], given: Mapping[str, str | None], before: str = "") -> str:
    """Which parameters of `kind` have a value that cannot be read, and why: flags from `given` (texts of the command
    line), names from the configuration; empty if all can. `before` stands before a parameter's name in its flag.
    """
    called = {name: invocation.flag_of(before + name) if given.get(name) else name for name, _ in kind.get_params()}
    wrong = [(called[name], fault_words(parameter, fault)) for name, parameter, fault in _wrong(kind, given)]
    return "; ".join(f"{name}: {printable(words, 200)}" for name, words in wrong)


def _wrong(
    kind: type[luigi.Task], given: Mapping[str, str | None]
) -> Iterator[tuple[str, luigi.Parameter[Any], Exception]]:
    """The parameters of `kind` whose value cannot be read, and why."""
    for name, parameter in kind.get_params():
        try:
            text = given.get(name)
            if text:
                parameter.parse(text)
            else:
                parameter._get_value(kind.get_task_family(), name)
        except (ParameterException, ValueError) as fault:
            yield name, parameter, fault


def wrong_flags(kind: type[luigi.Task], given: Mapping[str, str | None], before: str = "") -> tuple[str, ...]:
    """Those flags of the command line, `given`, that parameters of `kind` do not read; `before` as for `unreadable`."""
    return tuple(invocation.flag_of(before + name) for name, _, _ in _wrong(kind, given) if given.get(name))


def stated(kind: type[luigi.Task], given: Mapping[str, str | None]) -> str:
    """The file and line of the first value of `kind` that cannot be read and is not `given` by a flag, and the value;
    empty where there is none.
    """
    family = kind.get_task_family()
    for name, _, _ in _wrong(kind, given):
        place = "" if given.get(name) else stated_at(family, name)
        if place:
            return f"{place}: [{family}] {name} = {printable(get_config().get(family, name, ''), 100)}"
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


def readable(kind: type[luigi.Task], given: Mapping[str, str | None], before: str = "") -> str:
    """The command with a list or an object where a value that cannot be read is a bare one, with the choice that is
    written alike, with the default (without the flag, where that is none) for a number out of bounds; the page about it
    where nothing is as certain. `before` as for `unreadable`.
    """
    wrong = {before + name: _better(parameter, given.get(name) or "") for name, parameter, _ in _wrong(kind, given)}
    if not wrong or "" in wrong.values():
        return invocation.typed(f"{invocation.task() if before else kind.get_task_family()} --help")
    dropped = [invocation.flag_of(name) for name, better in wrong.items() if better is None]
    changed = {name: better for name, better in wrong.items() if better is not None}
    if dropped or len(wrong) > 1:
        return invocation.without(*dropped, **changed)
    [(name, better)] = changed.items()
    return invocation.replaced(invocation.flag_of(name), invocation.flag_of(name), better)


def _better(parameter: luigi.Parameter[Any], text: str) -> str | None:
    """What was meant by a `text` that `parameter` does not read; empty where that is open, None where the default is
    best and is no value.
    """
    if isinstance(parameter, ObjectParameter):
        return parameter.of_bare(text)
    if isinstance(parameter, PreviewRows):
        return str(parameter.usual)
    choices = sorted(map(str, getattr(parameter, "_choices", None) or ()))
    if choices and text:
        longer = [one for one in choices if one.startswith(text)]
        usual = str(parameter._default) in longer
        return nearest(text, choices) or (longer[0] if len(longer) == 1 else str(parameter._default) if usual else "")
    bare = isinstance(parameter, ListParameter) and text and not text.startswith("[")
    bound = as_list(text) if bare else _within_bounds(parameter, text)
    default = parameter._default
    if bare or not bound or default is _no_value:
        return bound
    return None if default is None else parameter.serialize(default)


def _within_bounds(parameter: luigi.Parameter[Any], text: str) -> str:
    """The nearest number that `parameter` may have; empty where `text` is none, or is within its bounds."""
    least, most = (getattr(parameter, name, math.nan) for name in ("least", "most"))
    try:
        value = float(text)
    except ValueError:
        return ""
    bound = least if value < least else most if value > most else math.nan
    return f"{bound:g}" if math.isfinite(bound) else ""


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
            expected="; ".join(f"--{name}: {about}" for name, about in needed.items()),
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
        near, command, owners = near_flags.hint(task, flag)
        return ConfigError(
            "unknown-parameter",
            f"there is no parameter {printable(flag)}{owners}",
            kept="nothing was started",
            next=command or page,
            wrong=(flag,),
            nearest=near,
        )
    if why.startswith(_UNKNOWN) and task:
        return _stray(words, page)
    return ConfigError("command-line", printable(why, 300), kept="nothing was started", next=page)


def _stray(words: Sequence[str], page: str) -> ConfigError:
    """What is said of words that stand behind no flag: mostly matches of a pattern, which the shell has put there."""
    flag, value = invocation.before(words[0])
    parted = " ".join([value, *words])
    if flag and os.path.exists(parted):
        return ConfigError(
            "stray-words",
            f"{flag} was given {len(words) + 1} words, which together name a place",
            expected="quotes around a place with blanks",
            found=printable(parted, 300),
            kept="nothing was started",
            next=invocation.replaced(flag, flag, parted, drop=words),
        )
    several = [value, *words]
    return ConfigError(
        "stray-words",
        f"{flag} was given {len(several)} values" if flag else f"{printable(words[0])} stands behind no flag",
        expected="one value for each flag; where a flag takes several places, commas between them",
        found=printable(", ".join(filter(None, several)), 300),
        kept="nothing was started",
        next=invocation.replaced(flag, flag, value, drop=words) if flag else page,
    )
