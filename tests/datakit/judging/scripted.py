"""Judges with known minds: they read what they are asked as any judge must, and reply in text.

The worth of an answer is the number that stands in it (`worth 7`). A biased judge takes what it sees first by a set
share of its questions, a noisy one the worse answer; which questions these are follows from the text alone.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from datakit.clients import REPLIES
from datakit.clients.sampling import Sampling
from datakit.run.resource import Resource

_ANSWER = re.compile(r"<<<answer ?([A-Z]?) ([0-9a-f]{16})>>>\n(.*?)\n<<<end \2>>>", re.DOTALL)


def answers_in(content: str) -> dict[str, str]:
    """The answers that a judge is shown, by their letters."""
    return {letter: text for letter, _, text in _ANSWER.findall(content)}


def worth(text: str) -> int:
    """The number that an answer says it is worth."""
    (number,) = re.findall(r"worth (-?\d+)", text)
    return int(number)


def lot(text: str) -> float:
    """A number from 0 to 1 that follows from the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


@dataclass(frozen=True)
class Scripted:
    """Replies by `say`, a function of the content of the last turn and the seed; `log` gets what it was asked."""

    say: Callable[[str, int], Any]
    log: list[Any] | None = None

    def judge(
        self, conversations: pa.Array, sampling: Sampling, seeds: np.ndarray,
        answer_schema: Mapping[str, Any] | None = None,
    ) -> pa.Table:  # fmt: skip
        rows = []
        for turns, seed in zip(conversations.to_pylist(), seeds.tolist(), strict=True):
            reply = self.say(turns[-1]["content"], seed)
            rows.append(dict(reply) if isinstance(reply, Mapping) else {"reply": reply, "finish_reason": "stop"})
            if self.log is not None:
                self.log.append((turns, seed, answer_schema))
        columns = {name: pa.array([row.get(name) for row in rows], pa.string()) for name in REPLIES.names}
        return REPLIES.conform(pa.table(columns))


def compares(*, biased: float = 0.0, noisy: float = 0.0) -> Callable[[str, int], str]:
    """Prefers the worthier of two answers, but for the shares that it is `biased` towards the first or `noisy` in."""

    def say(content: str, seed: int) -> str:
        shown = answers_in(content)
        if lot("bias" + content) < biased:
            return "The first is fine. [[A]]"
        one, other = (worth(text) for text in shown.values())
        better = one > other if lot("noise" + content) >= noisy else one < other
        return "tie [[tie]]" if one == other else f"Compared. [[{'A' if better else 'B'}]]"

    return say


def three(content: str, seed: int) -> str:
    """Three of ten, whatever it is asked."""
    return "[[3]]"


def first(content: str, seed: int) -> str:
    """What stands first."""
    return "[[A]]"


def judge(say: Callable[[str, int], Any], log: list[Any] | None = None) -> dict[str, Resource]:
    """A scripted judge as the resources of `apply`."""
    return {"judge": Resource("scripted", functools.partial(Scripted, say, log))}
