"""What `--help` shows: the commands in a line each; or one command, every flag once with its default, the names that
its flags take, and the settings of its setup.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import luigi
from luigi.cmdline_parser import CmdlineParser
from luigi.freezing import recursively_unfreeze
from luigi.parameter import ParameterException, _no_value
from luigi.task_register import Register

from pipelines.cli import invocation
from pipelines.cli.known_commands import commands
from pipelines.cli.learning import ByAlgorithm, MergedParameter, SettingFlag
from pipelines.commands.command import Command
from pipelines.commands.files import ReadsFiles
from pipelines.commands.stages import StageCommand
from schemas.errors import ConfigError
from schemas.process import program, terminal
from schemas.settings import defaults, every_setting
from trainers import doors
from trainers.config import Training
from trainers.registry import algorithms

_COLUMN = 26
_INDENT = "  "
_LUIGI = {
    "workers": "tasks at the same time",
    "scheduler-host": "a luigid to register with; none is needed",
    "local-scheduler": "no luigid, whatever the configuration names",
}


def install() -> None:
    """Answer `--help`, and a command line without a task, with pages of ours; the rest stays Luigi's."""
    build = CmdlineParser._build_parser

    def with_short_help(root_task: str | None = None, **options: Any) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = build(root_task=root_task, **options)
        parser.add_argument("-h", dest="core_help", action="store_true", help=argparse.SUPPRESS)
        return parser

    CmdlineParser._build_parser = staticmethod(with_short_help)  # type: ignore[method-assign,assignment]
    CmdlineParser._possibly_exit_with_help = staticmethod(_exit_with_help)  # type: ignore[method-assign,assignment]


def _exit_with_help(parser: Any, known: Any) -> None:
    asked = known.core_help or known.core_help_all
    if known.root_task and asked:
        _leave(page(Register.get_task_cls(known.root_task)), 0)
    elif not known.root_task:
        _leave(overview(), 0 if asked else ConfigError.code)


def _leave(lines: Iterator[str], code: int) -> NoReturn:
    def main() -> int:
        print("\n".join(lines), flush=True)
        return code

    if doors.is_command():
        program.run(main)
    sys.exit(main())


def overview() -> Iterator[str]:
    """The commands, in a sentence each: of a recipe the first of its file, as `quiver recipes` has it."""
    yield terminal.wrapped(f"usage: {invocation.typed('COMMAND')} --flag value ... (COMMAND --help)")
    stages = {name for name, kind in commands().items() if kind.__module__.startswith("pipelines.commands.")}
    for title, of_stages in (("Recipes", False), ("Stages", True)):
        yield terminal.wrapped(f"\n{title}")
        listed = {name: kind for name, kind in commands().items() if (name in stages) is of_stages}
        whose = {name: kind if of_stages else inspect.getmodule(kind) for name, kind in listed.items()}
        yield from terminal.table([(name, terminal.sentence(inspect.getdoc(one))) for name, one in whose.items()], "  ")


def page(kind: type[luigi.Task]) -> Iterator[str]:
    """One command: what it does, its flags, the names that they take, the settings of its setup, general flags."""
    family = kind.get_task_family()
    yield terminal.wrapped(f"{family}: {' '.join((inspect.getdoc(kind) or '').split())}", "")
    if issubclass(kind, Command) and kind.example:
        yield f"\nfor example\n{_INDENT}{example(kind)}"
    yield ""
    needed = getattr(kind, "needed", ())
    for name, parameter in sorted(kind.get_params(), key=lambda pair: pair[0] not in needed):
        yield from _flag(family, "", name, parameter, is_needed=name in needed)
    if issubclass(kind, StageCommand):
        yield from _names(kind)
    yield from _algorithms(kind)
    section = _setup(kind)
    if section is not None:
        title = f"\nSettings of the setup {section.get_task_family()} (another one: --setup NAME --help)"
        yield terminal.wrapped(title)
        yield from _section(section)
    yield terminal.wrapped("\nSettings of every command")
    yield from _section(Register.get_task_cls("quiver"))
    for name, meaning in _LUIGI.items():
        yield from _entry(f"--{name}", meaning)
    launch = ", ".join(invocation.flag_of(f"launch_{name}") for name, _ in Register.get_task_cls("launch").get_params())
    yield from _entry("--launch-...", f"how training is started: {launch}")


def example(kind: type[Command]) -> str:
    """A command of `kind` to start from, as a shell takes it."""
    words = terminal.shell_words(invocation.typed(kind.get_task_family(), kind.example))
    return terminal.folded(words, terminal.width() - len(_INDENT))


def _setup(kind: type[luigi.Task]) -> type[luigi.Task] | None:
    """The section of the setup that the command line names, or the default one; None where there is none."""
    parameter = dict(kind.get_params()).get("setup")
    if parameter is None:
        return None
    given = invocation.value("--setup") or invocation.value("--source")
    section = Register._get_reg().get(given or _value(kind.get_task_family(), "setup", parameter))
    return section if inspect.isclass(section) and issubclass(section, luigi.Config) else None


def _names(kind: type[StageCommand]) -> Iterator[str]:
    """Operations and formats of a stage; of the operation that is given, its settings."""
    from datakit.formats.forms import FORMS
    from datakit.registry import OPS

    flags = {name for name, _ in kind.get_params()}
    if "op" in flags:
        yield terminal.wrapped(f"\nOperations of {kind.get_task_family()} (settings of one: --op NAME --help)")
        for name, op in OPS.items():
            if name.startswith(f"{kind.family}."):
                yield from _entry(name.partition(".")[2], _sentence(op))
        chosen = invocation.value("--op")
        op_kind = OPS.get(chosen if "." in chosen else f"{kind.family}.{chosen}")
        if op_kind is not None:
            yield terminal.wrapped(f"\nSettings of {op_kind.name}, for --params")
            yield from (terminal.wrapped(f"  {name} ({default})") for name, default in defaults(op_kind).items())
    if issubclass(kind, ReadsFiles):
        yield terminal.wrapped(f"\nFormats of files (empty: {kind.usual_format})")
        if kind.family == "io":
            for name, form in FORMS.items():
                yield from _entry(name, form.meaning)
        else:
            yield terminal.wrapped(f"  {', '.join(FORMS)}", "  ")


def _algorithms(kind: type[luigi.Task]) -> Iterator[str]:
    """What `--algorithm` may name, and the settings of training."""
    flags = dict(kind.get_params())
    if "algorithm" in flags:
        yield terminal.wrapped(f"\nAlgorithms of {kind.get_task_family()} (what each learns from: quiver algorithms)")
        known = {name: one for name, one in algorithms().items() if not issubclass(kind, ByAlgorithm) or kind.fits(one)}
        for name, algorithm in known.items():
            yield from _entry(name, terminal.sentence(inspect.getdoc(inspect.getmodule(algorithm.loss))))
    if isinstance(flags.get("learning"), MergedParameter):
        yield terminal.wrapped("\nSettings of training, for --set KEY=VALUE (docs/config.md says more)")
        learning = recursively_unfreeze(flags["learning"]._default)
        for key, default in every_setting(Training):
            own = _at(learning, key) or default
            yield from _entry(key, own if own == "needed" else f"default: {own}")


def _at(values: Any, path: str) -> str:
    """What stands at a dotted path of nested `values`, as JSON; empty where nothing does."""
    for name in path.split("."):
        if not isinstance(values, Mapping) or name not in values:
            return ""
        values = values[name]
    return json.dumps(values)


def _section(section: type[luigi.Task]) -> Iterator[str]:
    name = section.get_task_family()
    for key, parameter in section.get_params():
        yield from _flag(name, f"{name}-", key, parameter)


def _flag(
    family: str, prefix: str, name: str, parameter: luigi.Parameter[Any], *, is_needed: bool = False
) -> Iterator[str]:
    value = _value(family, name, parameter)
    if isinstance(parameter, SettingFlag) and not value:
        learning = recursively_unfreeze(dict(Register.get_task_cls(family).get_params())["learning"]._default)
        own = _at(learning, parameter.setting) or dict(every_setting(Training)).get(parameter.setting, "null")
        value = "" if own == "null" else own
    choices = getattr(parameter, "_choices", None)
    about = (parameter.description or name.replace("_", " ")).partition(" Choices: {")[0]
    about += f": {' or '.join(sorted(map(str, choices)))}" if choices else ""
    default = f"default: {value}" if value else "default: empty"
    default = "needed" if value is None or (is_needed and not value) else default
    yield from _entry(invocation.flag_of(f"{prefix}{name}"), f"{about} [{default}]")


def _value(family: str, name: str, parameter: luigi.Parameter[Any]) -> str | None:
    """The default of a flag, as it would be written; None where there is none."""
    try:
        value = parameter._get_value(family, name)
        return None if value is _no_value else str(parameter.serialize(value))
    except (ParameterException, ValueError):
        return None


def _entry(name: str, about: str) -> Iterator[str]:
    """A name and what it is, over as many lines as the terminal needs; a name that is too long stands alone."""
    room = max(terminal.width() - _COLUMN, 14)
    lines = textwrap.wrap(about, room, break_long_words=False, break_on_hyphens=False) or [""]
    if len(name) + 4 > _COLUMN:
        yield f"  {name}"
    else:
        yield f"  {name:<{_COLUMN - 2}}{lines.pop(0)}"
    yield from (" " * _COLUMN + line for line in lines)


def _sentence(kind: type) -> str:
    return terminal.sentence(inspect.getdoc(kind))
