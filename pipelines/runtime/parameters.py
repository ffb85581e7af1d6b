"""Luigi's complaints about parameters in our words: which one, what was given, what would do."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from typing import Any, NoReturn

import luigi
from luigi.cmdline_parser import CmdlineParser
from luigi.parameter import ParameterException
from luigi.task_register import Register

from pipelines.runtime.console import say
from schemas.errors import ConfigError, printable

_UNKNOWN = "unrecognized arguments: "


def install() -> None:
    """Have Luigi's parser end the process with our error (exit code 2) where argparse would print its usage."""
    build = CmdlineParser._build_parser

    def refusing(**options: Any) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = build(**options)
        parser.error = _refuse  # type: ignore[method-assign,assignment]
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
            choices = getattr(parameter, "_choices", None)
            why = str(fault) if choices is None else f"one of {', '.join(sorted(map(str, choices)))} is needed"
            return f"{name}: {printable(why, 200)}"
    return ""


def _refuse(why: str) -> NoReturn:
    say(_refusal(why).render())
    raise SystemExit(ConfigError.code)


def _refusal(why: str) -> ConfigError:
    words = why.removeprefix(_UNKNOWN).split()
    flag = next((word.partition("=")[0] for word in words if word.startswith("-")), "")
    if not why.startswith(_UNKNOWN) or not flag:
        what, slug = printable(why, 300), "command-line"
    else:
        known = {name.replace("_", "-") for _, _, name, _ in Register.get_all_params()}
        near = difflib.get_close_matches(flag.lstrip("-"), sorted(known), 1, 0.6)
        hint = f" (did you mean --{near[0]}?)" if near else ""
        what, slug = f"there is no parameter {printable(flag)}{hint}", "unknown-parameter"
    return ConfigError(slug, what, kept="nothing was started", next="luigi --module pipelines TASK --help")
