"""Error messages, and with which exit code a process ends.

Every fault a user can cause or meet has five short fields: what; expected and found; where; what was kept; the next
command. The class decides the exit code, so a script can tell "fix the config" from "run it again".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from schemas.nearest import did_you_mean

_CUT = 80
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0"
    "\ufff0-\ufffb\ufffe\uffff\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff]"
)
"""Control, format, bidi and tag characters, lone surrogates, line and paragraph separators, fillers: what steers a
terminal, breaks a line or is not seen. Tab and newline are not among them."""
_FIELDS = ("slug", "what", "expected", "found", "where", "kept", "next")


def printable(value: object, limit: int = _CUT) -> str:
    """Text of `value` that is safe on a terminal: one line, unseen characters escaped, cut at `limit` characters."""
    text = escaped(str(value)).replace("\n", "\\n")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def escaped(text: str) -> str:
    """`text` with every character that steers a terminal or is not seen written as its number; lines stay lines."""
    return _UNSEEN.sub(lambda match: _number(ord(match.group())), text)


def counted(number: int, noun: str) -> str:
    """A number and its noun, as `1 stage` or `1,024 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _number(code: int) -> str:
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


class QuiverError(Exception):
    """A fault with a name (`slug`), a message of five fields and an exit code; base of all errors raised on purpose."""

    code: ClassVar[int] = 1
    missing: tuple[str, ...] = ()
    """Columns that rows lack, for whoever knows the command that makes them; it goes no further than this process."""
    matches: tuple[str, ...] = ()
    """Places that one which was given may mean: what a pattern matches, a result of that name; they go no further than
    this process either.
    """
    flags: tuple[str, ...] = ()
    """Flags whose values cannot be read, for whoever looks at the rest of a command without them."""
    beside: tuple[QuiverError, ...] = ()
    """Other faults that were found before anything was started; who prints this one prints them first."""

    def __init__(
        self,
        slug: str,
        what: str,
        *,
        expected: str = "",
        found: str = "",
        where: str = "",
        kept: str = "",
        next: str = "",
        wrong: Sequence[str] = (),
        nearest: str = "",
    ) -> None:
        """`wrong`: names that were given and that there are not; `nearest`: what was meant by the only one of them."""
        super().__init__(what)
        self.slug, self.sentence, self.expected, self.found = slug, what, expected, found
        self.where, self.kept, self.next = where, kept, next
        self.wrong, self.nearest = tuple(wrong), nearest

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self._facts)

    @property
    def what(self) -> str:
        """The `sentence` that it was made with, and the name that was meant."""
        return f"{self.sentence}{did_you_mean(self.nearest)}"

    @property
    def _facts(self) -> dict[str, Any]:
        """All that it was made with."""
        texts = {name: getattr(self, name) for name in _FIELDS}
        return {**texts, "what": self.sentence, "wrong": list(self.wrong), "nearest": self.nearest}

    def __str__(self) -> str:
        return self.render()

    def _render_traceback_(self) -> list[str]:
        """What IPython prints of it where nobody caught it: the message alone, as a terminal has it."""
        return self.render().splitlines()

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The fields behind the headline that have something to say, by name."""
        return [(name, value) for name in _FIELDS[2:] if (value := getattr(self, name))]

    def render(self) -> str:
        """The message: one headline and the fields that have something to say, safe on a terminal whatever its width
        (`schemas.process.terminal.error_text` breaks its lines).

        Escaping happens here, once, for all fields and every place that prints: a caller may forget it.
        """
        lines = [f"error[{self.code}/{self.slug}]: {self.what}"]
        if self.expected or self.found:
            pair = [f"{name}: {value}" for name, value in (("expected", self.expected), ("found", self.found)) if value]
            lines.append("  " + "   ".join(pair))
        lines += [f"  {name}: {value}" for name in ("where", "kept", "next") if (value := getattr(self, name))]
        return escaped("\n".join(lines))

    def as_json(self) -> str:
        """The same fields as one JSON line; `what` without the name that was meant, which is `nearest`."""
        return json.dumps({"code": self.code, **self._facts}, sort_keys=True)


_MOST = 5
"""Faults that one error lists, at most."""


def check_all(checks: Iterable[Callable[[], object]]) -> None:
    """Do all `checks`; of their `ConfigError`s and `DataError`s the first is raised, the others `beside` it."""
    faults: dict[str, QuiverError] = {}
    for check in checks:
        try:
            check()
        except (ConfigError, DataError) as error:
            faults |= {one.what: one for one in (*error.beside, error) if one.what not in faults}
        if len(faults) >= _MOST:
            break
    if faults:
        first, *others = faults.values()
        first.beside = tuple(others)
        raise first


def error_of(fields: Mapping[str, Any]) -> QuiverError:
    """The error whose `as_json` gave `fields`; `KeyError`, `TypeError` or `ValueError` for anything else."""
    code = int(fields["code"])
    kind = next((kind for kind in _kinds(QuiverError) if kind.code == code), QuiverError)
    texts = {name: str(fields[name]) for name in (*_FIELDS, "nearest") if name in fields}
    error = kind(**texts, wrong=[str(name) for name in fields.get("wrong", ())])
    if error.code != code:
        error.code = code  # type: ignore[misc]
    return error


def _kinds(kind: type[QuiverError]) -> Iterator[type[QuiverError]]:
    yield kind
    for sub in kind.__subclasses__():
        yield from _kinds(sub)


def _rebuild(kind: type[QuiverError], facts: dict[str, Any]) -> QuiverError:
    return kind(facts.pop("slug"), facts.pop("what"), **facts)


class ConfigError(QuiverError, ValueError):
    """The command line or a configuration is wrong; nothing was started (exit 2)."""

    code = 2


class DataError(QuiverError, ValueError):
    """Input data break the contract of a schema or an operation (exit 10)."""

    code = 10


class IntegrityError(QuiverError):
    """Stored bytes are not the bytes that were published: hash, size, row count, torn file (exit 11)."""

    code = 11


class StorageError(QuiverError, OSError):
    """Storage failed after retries: full, denied, gone (exit 12)."""

    code = 12

    def __str__(self) -> str:
        return self.render()


class ServiceError(QuiverError):
    """A generation, reward or judge service failed after retries (exit 13)."""

    code = 13


class WorkerError(QuiverError):
    """A worker process died, for memory or a hang (exit 14)."""

    code = 14


class ConflictError(QuiverError):
    """Another run owns this output or wrote it differently (exit 15)."""

    code = 15


class HealthError(QuiverError):
    """Training was stopped for its health: a loss that is not finite, divergence (exit 20)."""

    code = 20


class Stopped(QuiverError):
    """Stopped on request with the state saved; the same command goes on (exit 75)."""

    code = 75
