"""A Python function as a scorer (`module:function`, handed whole columns as lists, by name), as a judge (handed the
conversations in which it is asked), or as an environment (handed conversations and columns).
"""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.clients.protocols import REPLIES, Turn
from datakit.clients.sampling import Sampling
from schemas import Schema
from schemas.errors import ConfigError, ServiceError, printable


class _Function:
    """A function that can be imported, and what an error says where it returns what cannot be used."""

    gives: ClassVar[str]
    """What a list of its holds, in words."""

    def __init__(self, function: str) -> None:
        self.function = function
        self._call = imported(function)

    def _listed(self, values: object, rows: int) -> list[Any]:
        """What it returned as a list of that many; `ServiceError` (13) where it is none."""
        asked = f"a list of {rows} {self.gives}, one a row in their order"
        later = _later(values)
        if later:
            raise self._bad(f"returned {later}, which holds no {self.gives} until somebody waits for it", asked, later)
        if isinstance(values, str | bytes) or not isinstance(values, Iterable):
            raise self._bad("returned no list", asked, _described(values))
        listed = list(values if isinstance(values, Sized) else islice(values, rows + 1))  # it may never end
        if len(listed) != rows:
            of = " of a generator (def with yield: its return gives nothing)" if inspect.isgenerator(values) else ""
            raise self._bad(f"was asked {rows} {self.gives}, got {len(listed)}{of}", asked, f"{len(listed)} of them")
        return listed

    def _bad(self, what: str, expected: str, actual: str) -> ServiceError:
        code = getattr(inspect.unwrap(self._call), "__code__", None)
        return ServiceError(
            "bad-reply",
            f"{self.function} {what}",
            expected=expected,
            found=actual,
            where=f"line {code.co_firstlineno} of {code.co_filename}" if code else self.function,
            kept=f"finished chunks, which the next run uses; no {self.gives} of this one",
            next=f"return {expected} from {self.function}, then run the same command again",
        )


class _OfColumns(_Function):
    """A function that is handed columns of its rows, as lists by name."""

    def __init__(self, function: str, takes: Schema) -> None:
        super().__init__(function)
        self._takes = takes

    @property
    def takes(self) -> Schema:
        """The columns handed to the function."""
        return self._takes

    def _columns(self, rows: pa.Table) -> dict[str, list[Any]]:
        return {name: rows[name].to_pylist() for name in self._takes.names}


class PythonScorer(_OfColumns):
    """Scores rows with a function that can be imported.

    The function is called with the columns of `takes` as keyword lists of equal length, for example `def
    brevity(response): return [-len(text) for text in response]`, and returns one number (or None) per row, or
    a mapping of such lists by name. A plain list is named `reward`.
    """

    gives: ClassVar[str] = "scores"

    def score(self, rows: pa.Table) -> dict[str, pa.Array]:
        """The function's numbers as float64; `ServiceError` (13) where it is not one number per row."""
        answer = self._call(**self._columns(rows))
        named = answer if isinstance(answer, Mapping) else {"reward": answer}
        return {str(name): self._numbers(values, rows) for name, values in named.items()}

    def _numbers(self, values: object, rows: pa.Table) -> pa.Array:
        listed = self._listed(values, rows.num_rows)
        numbers: list[float | None] = []
        for place, value in enumerate(listed):
            try:
                numbers.append(_number(value))
            except Exception as fault:  # whatever a value of theirs does where it is made a float
                handed = ", ".join(f"{name}={printable(rows[name][place], 60)}" for name in self._takes.names)
                what = f"returned what is no number for row {place} of the {len(listed)} that it was handed: {handed}"
                raise self._bad(what, "float, or None where there is no score", _described(value)) from fault
        return pa.array(numbers, pa.float64())


class PythonJudge(_Function):
    """Judges by a function that is called with the conversations it is asked in, each a list of turns (`role`,
    `content`), for example `def judge(conversations): return ["[[A]]" for turns in conversations]`. It returns a reply
    each, or None where it says nothing; how they are drawn, and the form of a reply, it may read off the conversations.
    """

    gives: ClassVar[str] = "replies"

    def judge(
        self,
        conversations: pa.Array | pa.ChunkedArray,
        sampling: Sampling,
        seeds: npt.NDArray[np.uint64],
        answer_schema: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """Its replies as `REPLIES`; `ServiceError` (13) where it is not one text per conversation."""
        asked = [[{name: turn[name] for name in ("role", "content")} for turn in turns] for turns in
                 conversations.to_pylist()]  # fmt: skip
        replies = self._listed(self._call(asked), len(asked))
        strange = next((place for place, value in enumerate(replies) if not isinstance(value, str | None)), None)
        if strange is not None:
            what = f"returned what is no text for conversation {strange} of the {len(asked)} that it was handed"
            raise self._bad(what, "str, or None where it says nothing", _described(replies[strange]))
        error = [None if reply is not None else f"{self.function} says nothing" for reply in replies]
        columns = {"reply": pa.array(replies, pa.string()), "error": pa.array(error, pa.string())}
        return REPLIES.conform(pa.table(columns))


class PythonEnvironment(_OfColumns):
    """Carries on conversations by a function that is called with them, each a list of turns (`role`, `content`) whose
    last is an answer, and with the columns of `takes` as keyword lists. For each it returns a text, the next turn of
    the user; a number, what the answer earned where it ends the conversation; None, where it ends it and earned
    nothing; or a mapping of `content`, `role` (user, tool) and `reward`, each of which may be missing.
    """

    gives: ClassVar[str] = "turns"

    def reply(self, conversations: Sequence[Sequence[Mapping[str, str]]], rows: pa.Table) -> list[Turn]:
        """What it says to each; `ServiceError` (13) for anything but one turn each."""
        handed = [[dict(turn) for turn in turns] for turns in conversations]
        listed = self._listed(self._call(handed, **self._columns(rows)), len(handed))
        turns = []
        for place, value in enumerate(listed):
            try:
                turns.append(_turn(value))
            except Exception as fault:  # whatever a value of theirs does where it is looked at
                what = f"returned what is no turn for conversation {place} of the {len(listed)} that it was handed"
                raise self._bad(what, _TURN, _described(value)) from fault
        return turns


_TURN = "a text, a finite reward, None, or a mapping of content, role (user or tool) and reward"
"""What an environment may return of a conversation."""


def _turn(value: Any) -> Turn:
    """What an environment returned, as a turn; any exception for anything else."""
    given: Mapping[Any, Any] = value if isinstance(value, Mapping) else {}
    if not isinstance(value, Mapping):
        given = {"content": value} if isinstance(value, str) else {"reward": value}
    content, role, reward = given.get("content"), given.get("role", "user"), _number(given.get("reward")) or 0.0
    fits = content is None or (isinstance(content, str) and content.strip() and content.encode())
    if (
        not fits
        or role not in ("user", "tool")
        or not math.isfinite(reward)
        or {*given} - {"content", "role", "reward"}
    ):
        raise ValueError("no turn")
    return Turn(content, role, reward)


def _later(values: object) -> str:
    """What `values` is where it would give scores to somebody who waits for it; empty for anything else."""
    if inspect.iscoroutine(values):
        values.close()  # Python warns of one that nobody waited for
        return "a coroutine (of an async def)"
    if inspect.isasyncgen(values):
        return "an asynchronous generator (of an async def with yield)"
    return f"an awaitable ({type(values).__name__})" if inspect.isawaitable(values) else ""


def _number(value: Any) -> float | None:
    """`value` as a float; any exception for what is none, or one of another size."""
    if isinstance(value, bool | str | bytes):
        raise TypeError(f"{type(value).__name__} is no number")
    return None if value is None else float(value)


def _described(value: object) -> str:
    try:
        return f"{type(value).__name__} {printable(value)}"
    except Exception:  # of a `__str__` of theirs; of a whole number with more digits than Python writes
        return f"{type(value).__name__}, which has no text"


def imported(name: str) -> Callable[..., Any]:
    """The function that `module:function` names; `ConfigError` if there is none."""
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as fault:  # whatever the user's module does while it is read: syntax, encoding, its own faults
        raise ConfigError(
            "no-function",
            f"{printable(name)} cannot be imported: {type(fault).__name__}: {printable(fault, 200)}",
            expected="module:function, importable; of the working folder that module alone",
            kept="nothing was started",
            next="what it imports from the working folder belongs in a package with it: package.module:function",
        ) from fault
    if not callable(function):
        raise ConfigError("no-function", f"{printable(name)} is not a function", kept="nothing was started")
    return function
