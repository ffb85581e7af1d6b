"""Texts that know which of their characters came from a row: what a template makes of contents, traced exactly.

A `Given` is a str with runs: (start, end, turn) of the characters that came from that turn, or from the tools
(`TOOLS`). Adding, cutting, stripping, splitting, replacing and joining keep the runs. Whatever else makes a text out of
one gives a text that is `UNCLEAR` from end to end, so that no character of a row is ever taken for the template's. It
also notes whether it is looked into (compared, searched, measured) rather than only written out: where no content is,
the text around contents is a function of the roles alone. Runs in the renderer's child, with Jinja alone.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import Environment
from jinja2.nodes import EvalContext
from jinja2.runtime import Context, Undefined

TOOLS, UNCLEAR = 1 << 30, -1
Runs = tuple[tuple[int, int, int], ...]

_MUTE = {"__class__", "__new__", "__init__", "__getattribute__", "__init_subclass__", "__subclasshook__", "__hash__"}
_MUTE |= {"__repr__", "__reduce__", "__reduce_ex__", "__getnewargs__", "__setattr__", "__delattr__", "__dir__"}
_MUTE |= {"__doc__", "__getstate__", "__sizeof__"}


class Given(str):
    """A text with the runs of it that came from a row; made without runs it is unclear."""

    _runs: Runs
    _looked = False

    def __new__(cls, text: str, runs: Runs | None = None) -> Given:
        made = super().__new__(cls, text)
        made._runs = ((0, str.__len__(text), UNCLEAR),) if runs is None else runs
        return made

    def __str__(self) -> str:
        return self

    def __add__(self, other: Any, /) -> Any:
        return joined((self, other)) if isinstance(other, str) else NotImplemented

    def __radd__(self, other: Any, /) -> Any:
        return joined((other, self)) if isinstance(other, str) else NotImplemented

    def strip(self, chars: str | None = None, /) -> Given:
        return self.lstrip(chars).rstrip(chars)

    def lstrip(self, chars: str | None = None, /) -> Given:
        length = str.__len__(self)
        return _cut(self, length - len(str.lstrip(self, chars)), length)

    def rstrip(self, chars: str | None = None, /) -> Given:
        return _cut(self, 0, len(str.rstrip(self, chars)))


def _cut(text: Given, start: int, stop: int) -> Given:
    runs = tuple((max(a, start) - start, min(b, stop) - start, turn) for a, b, turn in text._runs)
    return Given(str.__getitem__(text, slice(start, stop)), tuple(run for run in runs if run[0] < run[1]))


def _item(text: Given, at: Any) -> Any:
    places = range(str.__len__(text))[at]
    if isinstance(places, int):
        return _cut(text, places, places + 1)
    if places.step == 1:
        return _cut(text, places.start, max(places.start, places.stop))
    return joined(_cut(text, place, place + 1) for place in places)


def _times(text: Given, count: Any) -> Any:
    return joined([text] * count) if isinstance(count, int) else NotImplemented


def _letters(text: Given) -> Iterator[Given]:
    return (_cut(text, at, at + 1) for at in range(str.__len__(text)))


def _apart(text: Given, pieces: Iterable[str]) -> list[Given]:
    """`pieces`, which stand in `text` one behind the other."""
    made, at = [], 0
    for piece in pieces:
        at = str.find(text, piece, at)
        made.append(_cut(text, at, at + len(piece)))
        at += len(piece)
    return made


def _split_at(text: Given, sep: str, count: int) -> list[Given]:
    made, at = [], 0
    while count and (end := str.find(text, sep, at)) >= 0:
        made.append(_cut(text, at, end))
        at, count = end + str.__len__(sep), count - 1
    return [*made, _cut(text, at, str.__len__(text))]


def _split(text: Given, sep: str | None = None, maxsplit: int = -1) -> list[Given]:
    return _apart(text, str.split(text, None, maxsplit)) if sep is None else _split_at(text, _whole(sep), maxsplit)


def _rsplit(text: Given, sep: str | None = None, maxsplit: int = -1) -> list[Given]:
    pieces = str.rsplit(text, sep, maxsplit)
    if sep is None:
        return _apart(text, pieces)
    return [_cut(text, *place) for place in _places(pieces, str.__len__(sep))]


def _places(pieces: list[str], gap: int) -> Iterator[tuple[int, int]]:
    at = 0
    for piece in pieces:
        yield at, at + len(piece)
        at += len(piece) + gap


def _whole(sep: str) -> str:
    if not str.__len__(sep):
        raise ValueError("empty separator")
    return sep


def _splitlines(text: Given, keepends: bool = False) -> list[Given]:
    return _apart(text, str.splitlines(text, keepends))


def _partition(text: Given, sep: str) -> tuple[str, str, str]:
    at = str.find(text, _whole(sep))
    return _parted(text, at, sep) if at >= 0 else (text, "", "")


def _rpartition(text: Given, sep: str) -> tuple[str, str, str]:
    at = str.rfind(text, _whole(sep))
    return _parted(text, at, sep) if at >= 0 else ("", "", text)


def _parted(text: Given, at: int, sep: str) -> tuple[str, str, str]:
    end, length = at + str.__len__(sep), str.__len__(text)
    return _cut(text, 0, at), _cut(text, at, end), _cut(text, end, length)


def _removeprefix(text: Given, prefix: str) -> Given:
    return _cut(text, str.__len__(prefix) if str.startswith(text, prefix) else 0, str.__len__(text))


def _removesuffix(text: Given, suffix: str) -> Given:
    size = str.__len__(suffix) if str.endswith(text, suffix) else 0
    return _cut(text, 0, str.__len__(text) - size)


def replace(text: Given, old: str, new: str, count: int = -1) -> str:
    """As `text.replace(old, new, count)`; what stays of `text` stays marked as given."""
    if not str.__len__(old):
        return Given(str.replace(text, old, new, count))
    return join(new, _split_at(text, old, count))


def join(separator: str, parts: Iterable[Any]) -> str:
    """As `separator.join(parts)`; parts that are given stay marked as given."""
    texts: list[str] = []
    for part in parts:
        texts += [separator, part] if texts else [part]
    return joined(texts)


def _no_bytes(text: Given, *_: Any) -> Any:
    raise TypeError("bytes are not for templates")


_TRACED: Mapping[str, Callable[..., Any]] = {
    "__getitem__": _item, "__iter__": _letters, "__mul__": _times, "__rmul__": _times,
    "split": _split, "rsplit": _rsplit, "splitlines": _splitlines, "partition": _partition, "rpartition": _rpartition,
    "removeprefix": _removeprefix, "removesuffix": _removesuffix, "replace": replace, "join": join,
    "encode": _no_bytes,
}  # fmt: skip


def _noting(name: str) -> Any:
    """The method of that name: notes that the text was looked into; a text that nobody traces is unclear."""
    method = _TRACED.get(name, getattr(str, name))

    @functools.wraps(getattr(str, name))
    def noted(self: Given, *args: Any, **named: Any) -> Any:
        Given._looked = True
        made = method(self, *args, **named)
        return Given(made) if type(made) is str and name not in _TRACED else made

    return noted


for _name in {*dir(str), "__rmod__"} - _MUTE - {"maketrans"}:
    if _name not in vars(Given):
        setattr(Given, _name, _noting(_name))


def joined(parts: Iterable[Any]) -> str:
    """All parts in one text, with their runs."""
    texts, runs, at = [], [], 0
    for part in parts:
        text = part if isinstance(part, str) else written(part)
        if type(text) is Given:
            runs += [(start + at, end + at, turn) for start, end, turn in text._runs]
        at += str.__len__(text)
        texts.append(text)
    return Given("".join(texts), tuple(runs)) if runs else "".join(texts)


def turn_of(value: Any) -> int | None:
    """The first turn that anything in `value` came from; `UNCLEAR` for what cannot be looked through."""
    if type(value) is Given:
        return value._runs[0][2] if value._runs else None
    if value is None or isinstance(value, str | bool | int | float | Undefined | EvalContext | Context | Environment):
        return None
    if not isinstance(value, list | tuple | dict):
        return UNCLEAR
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    return next((turn for turn in map(turn_of, parts) if turn is not None), None)


def written(value: Any) -> str:
    """`value` as a template writes it out."""
    if isinstance(value, str):
        return value
    turn, text = turn_of(value), str(value)
    return text if turn is None else Given(text, ((0, len(text), turn),))


def as_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    """The filter `tojson`, without escapes for HTML; JSON of what came from a row did so from end to end."""
    turn = turn_of(value)
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)
    if turn is None:
        return text
    Given._looked = True
    return Given(text, ((0, len(text), turn),))
