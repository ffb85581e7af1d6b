"""The flags that say how a file is read, as a command calls those of the flag that names the file: `--own-prompts` has
`--own-columns`, `--pairs` has `--pairs-columns`.
"""

from __future__ import annotations

import fnmatch
import inspect
import json
import re
import shlex
from collections.abc import Collection, Iterator
from contextlib import suppress
from typing import Any

import luigi

from datakit.formats.advice import ANY_KEY
from datakit.formats.forms import FORMS
from datakit.formats.reader import FormatReader
from datakit.formats.recognise import fitting
from pipelines.cli import invocation
from pipelines.cli.near_flags import sections
from pipelines.graph.resolve import names_in, near
from schemas.store.storage import normal, shown

_OF_A_READER = re.compile(r"--(?P<name>columns|format|ignore|keep) (?P<value>.*)", re.DOTALL)


def of_file(command: luigi.Task, read: FormatReader, next: str) -> str:
    """The flag of a reader that `next` says, with its value, as `command` has it for the files of `read`; names of keys
    that were given stay. An import of these files where it has no such flag; other words as they are.
    """
    name, value = _repair(command, read, next)
    if not name:
        return next
    columns = dict(read.columns)
    if name == "columns":
        with suppress(ValueError):  # a name with an apostrophe, or words cut short
            value = _json({**columns, **json.loads(shlex.split(value)[0])})
    flags = _flags(command)
    for flag in _naming(flags, read.files):
        words = flag.split("_")
        own = ("_".join([*words[:count], name]) for count in range(len(words), -1, -1))
        known = [one for one in own if one in flags]
        if known:
            return f"{invocation.flag_of(known[0])} {value}"
    words = ["luigi --module pipelines Import --files", ",".join(shlex.quote(near(file)) for file in read.files)]
    words += ["--format", str(read.format)] if name != "format" and read.format else []
    words += ["--columns", _json(columns)] if name != "columns" and columns else []
    others = {"keep": ",".join(read.keep), "ignore": ",".join(read.ignore), "source-name": read.source or ""}
    others["dialogue"] = read.dialogue if read.dialogue != "plain" else ""
    words += [f"--{flag} {shlex.quote(text)}" for flag, text in others.items() if text and flag != name]
    return " ".join([*words, f"--{name}", value])


def _repair(command: luigi.Task, read: FormatReader, next: str) -> tuple[str, str]:
    """The flag of a reader that `next` says, and its value; `format` and another one, where no row is read in this one
    and one is in that. Both are empty for other words.
    """
    match = _OF_A_READER.fullmatch(next)
    name, value = (match["name"], match["value"]) if match else ("", "")
    none_is_read = bool(read.files) and next == f"quiver show {shlex.quote(shown(read.files[0]))}"
    unnamed = name == "columns" and f'"{ANY_KEY}"' in value
    other = _other_format(command, read) if none_is_read or unnamed else ""
    return ("format", other) if other else (name, value)


def _other_format(command: luigi.Task, read: FormatReader) -> str:
    """Another format that reads the file, of those that the command reads or whose rows are of the same kind; empty
    where there is none, or where keys were renamed for the one that was asked for.
    """
    if read.columns or read.format is None:
        return ""
    own: tuple[str, ...] = (getattr(command, "usual_format", ""), *getattr(command, "other_formats", ()))
    takes_any = isinstance(getattr(command, "op", None), str) or command.task_family == "Import"
    kind = FORMS[read.format].schema.name
    forms = [name for name, form in FORMS.items() if takes_any or name in own or form.schema.name == kind]
    return next(iter(fitting(read.files[0], forms)), "")


def _flags(command: luigi.Task) -> dict[str, Any]:
    """What `command` and the sections say, by flag with underscores."""
    values = {name: getattr(command, name) for name, _ in command.get_params()}
    for section, kind in sections().items():
        if not inspect.isabstract(kind):
            values |= {f"{section}_{name}": getattr(kind(), name) for name, _ in kind.get_params()}
    return values


def _naming(flags: dict[str, Any], files: Collection[str]) -> Iterator[str]:
    """The `flags` that name one of `files`, itself or by a pattern."""
    own = {normal(file) for file in files}
    for flag, value in flags.items():
        places = names_in(value) if isinstance(value, str) else value if isinstance(value, tuple | list) else ()
        named = [normal(place) for place in places if isinstance(place, str)]
        if any(one in own or fnmatch.filter(own, one) for one in named):
            yield flag


def _json(columns: dict[str, Any]) -> str:
    return shlex.quote(json.dumps(columns, ensure_ascii=False))
