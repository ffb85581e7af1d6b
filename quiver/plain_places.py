"""What `quiver show` says of what is no dataset and no checkpoint: a file, a Hugging Face folder, rejected rows."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import pyarrow.compute as pc

from datakit.formats.recognise import fitting
from schemas import Dataset
from schemas.display import rows_of
from schemas.errors import QuiverError, counted, printable
from schemas.installed import as_run
from schemas.process import terminal
from schemas.store.storage import shown
from schemas.untrusted import strict_json

CONFIG = "config.json"
NETWORK, RUN = "a Hugging Face folder", "the folder of a training run"
_CUT, _LARGEST, _LARGEST_READ = 1 << 16, 1 << 20, 1 << 26
_OF_A_RUN = {"algorithm", "optim", "global_batch_size", "out"}
_WORDS = ("role", "content")
_SHAPE = ("model_type", "architectures", "hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")


def fields(values: Mapping[str, Any], *, whole: bool = False) -> Iterator[str]:
    """A line for each value, cut at the terminal's width and with numbers of six digits, or else `whole`: of a
    conversation a line for each turn.
    """
    column = max((len(printable(name)) for name in values), default=0)
    for name, value in values.items():
        head = f"  {printable(name):<{column}}  "
        if not whole:
            yield head + printable(text_of(value), max(20, terminal.width() - len(head)))
            continue
        for number, text in enumerate(turns(value) or [text_of(value, digits=False)]):
            yield (" " * len(head) if number else head) + printable(text, sys.maxsize)


def text_of(value: Any, *, digits: bool = True) -> Any:
    """What a person reads in a field: `-` for nothing, a conversation by turns, lists and structs as JSON; numbers have
    six `digits`.
    """
    if value is None:
        return "-"
    if conversation := turns(value):
        return " | ".join(conversation)
    value = rounded(value) if digits else value
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value


def turns(value: Any) -> list[str]:
    """Every turn of a conversation: who it is of, the words, and what stands beside them; none of another value."""
    if not isinstance(value, list) or not all(isinstance(one, dict) and {"role", "content"} <= {*one} for one in value):
        return []
    lines = []
    for one in value:
        beside = {name: more for name, more in one.items() if name not in _WORDS and more is not None}
        words = [
            f"{one['role']}:",
            one["content"],
            json.dumps(beside, ensure_ascii=False, default=str) if beside else "",
        ]
        lines.append(" ".join(str(word) for word in words if word))
    return lines


def to_do(command: str) -> str:
    """The line of a `command` to run next, as the shell runs it from here, folded where it is long."""
    return terminal.next_line(as_run(command)).lstrip()


def rounded(value: Any) -> Any:
    """`value` with six digits of every number in it that is not a whole one, lists and structs included."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    return [rounded(one) for one in value] if isinstance(value, list | tuple) else value


def kind_of(place: str) -> str:
    """What a person would call the file or folder at `place`; empty for a folder like any other."""
    if os.path.isfile(place):
        return f"a file of {counted(os.path.getsize(place), 'byte')}"
    if not os.path.isdir(place):
        return "neither a file nor a folder"
    if not os.path.isfile(os.path.join(place, CONFIG)):
        return ""
    return RUN if settings(place).keys() >= _OF_A_RUN else NETWORK


def file(place: str, rows: int, *, whole: bool = False) -> Iterator[str]:
    """The first lines of a text, cut at the terminal's width or `whole`, and the command that makes rows of it."""
    yield terminal.wrapped(f"{shown(place)}: {kind_of(place)}")
    with open(place, "rb") as stream:
        head = stream.read(_CUT)
    if b"\0" not in head:
        yield ""
        for line in islice(head.decode("utf-8", "replace").splitlines(), rows):
            yield f"  {printable(line, sys.maxsize if whole else terminal.width() - 2)}"
    yield ""
    known = fitting(place)[:1] if os.path.getsize(place) <= _LARGEST_READ else []
    yield from (to_do(f"quiver Import --files {shlex.quote(place)} --format {name}") for name in known)
    if not known:
        yield to_do("quiver formats")


def network(place: str) -> Iterator[str]:
    """The shape of a Hugging Face model, its files, and the command that takes it in."""
    yield terminal.wrapped(f"{shown(place)}: {kind_of(place)}")
    files = sorted(os.scandir(place), key=lambda entry: entry.name)
    size = sum(entry.stat().st_size for entry in files if entry.is_file())
    yield f"  {counted(len(files), 'file')}, {size / 1e6:,.1f} MB"
    shape = settings(place)
    known = {name: shape[name] for name in _SHAPE if name in shape}
    if known:
        yield from ("", CONFIG)
        yield from fields(known)
    yield from ("", to_do(f"quiver ImportModel --folder {shlex.quote(place)}"))


def settings(place: str) -> Mapping[str, Any]:
    """The settings in the folder `place`, of a network or of a training run; none where they cannot be read."""
    try:
        with open(os.path.join(place, CONFIG), "rb") as stream:
            values = strict_json(stream.read(_LARGEST))
    except (OSError, ValueError, QuiverError):
        return {}
    return values if isinstance(values, dict) else {}


def rejected(dataset: Dataset, rows: int, *, whole: bool = False) -> Iterator[str]:
    """How many rows of a stage were set aside, why, and the first of them."""
    table = dataset.read_rejected()
    if table is None or not table.num_rows:
        yield terminal.wrapped(f"no row was set aside when {shown(dataset.url)} was made")
        return
    rows_aside = rows_of(table.num_rows, "rows")
    yield terminal.wrapped(f"{rows_aside} set aside when {shown(dataset.url)} was made")
    for count in pc.value_counts(table["reason"]).to_pylist():
        against = table["threshold"].filter(pc.equal(table["reason"], count["values"])).unique().drop_null()
        limit = f" ({printable(against[0])})" if len(against) == 1 else ""
        yield f"  {printable(count['values'])} {count['counts']:,}{limit}"
    for number, row in enumerate(table.slice(0, rows).to_pylist()):
        yield from ("", f"row {number}")
        yield from fields({name: value for name, value in row.items() if value is not None}, whole=whole)
