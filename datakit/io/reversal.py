"""The embedded task: reverse a number's digits. Needs no download, has a gold answer, and a tiny model can
learn it.

Prompt i is a function of (`seed`, `digits`, i) through a permutation of all numbers of that length, so all
prompts are distinct and ranges that do not overlap (`first`, `rows`) never share one: training and held-out
rows are two ranges.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from datakit.columns.conversations import question
from datakit.columns.seeded import mixed
from datakit.formats.rows import Rows
from datakit.formats.size import ID_BYTES
from datakit.op import Context, Read, Result, Size
from schemas import COMPLETIONS, PROMPTS, Schema
from schemas.errors import ConfigError

_ROWS = 1 << 14
_ROUNDS = 6
DEMONSTRATIONS = COMPLETIONS.adding(PROMPTS["answer"])
"""Completions that keep the gold answer, so that a verifier can tell which are wrong."""


@dataclass(frozen=True, kw_only=True)
class Reversal(Read):
    """`rows` prompts of numbers with `digits` digits, or demonstrations of which exactly `wrong_share` are
    wrong.

    Wrong answers look plausible: two neighbouring digits swapped, or one or two digits changed.
    """

    name: ClassVar[str] = "io.reversal"
    version: ClassVar[int] = 2

    rows: int = 1024
    digits: int = 5
    output: Literal["prompts", "demonstrations"] = "prompts"
    wrong_share: float = 0.0
    first: int = 0
    seed: int = 0
    text: str = "Reverse the digits: {}"
    source: str = "reversal"

    def __post_init__(self) -> None:
        bad = [
            (not 1 <= self.digits <= 18, f"digits must be 1 to 18, not {self.digits}"),
            (self.rows < 1 or self.first < 0, f"rows {self.rows} from {self.first} on is no range"),
            (
                self.first + self.rows > 10 ** min(18, self.digits),
                f"there are only 10^{self.digits} numbers of {self.digits} digits",
            ),
            (not 0 <= self.wrong_share <= 1, f"wrong_share must be 0 to 1, not {self.wrong_share}"),
            (
                self.output == "prompts" and self.wrong_share > 0,
                "prompts have no answers that could be wrong",
            ),
            (self.text.count("{}") != 1, "text must hold {} once, where the number goes"),
        ]
        faults = [text for wrong, text in bad if wrong]
        if faults:
            raise ConfigError("bad-setting", f"{self.name}: {'; '.join(faults)}", kept="nothing was started")

    def gives(self, *inputs: Schema) -> Schema:
        """PROMPTS, or COMPLETIONS with the gold answer."""
        return PROMPTS if self.output == "prompts" else DEMONSTRATIONS

    def grown(self, given: Size) -> Size:
        return Size(self.rows, self.rows * ID_BYTES)

    def read(self, ctx: Context) -> Iterator[Result]:
        """Rows in order of their number in the permutation."""
        make = Rows(self.gives(), self.source)
        ranks = permuted(np.arange(self.rows, dtype=np.uint64), self.rows, self.seed + 1)
        wrong = ranks < round(self.rows * self.wrong_share)
        before, after = self.text.split("{}")
        for start in range(0, self.rows, _ROWS):
            count = min(_ROWS, self.rows - start)
            index = np.arange(self.first + start, self.first + start + count, dtype=np.uint64)
            numbers = [f"{n:0{self.digits}d}" for n in permuted(index, 10**self.digits, self.seed).tolist()]
            answers = [number[::-1] for number in numbers]
            prompts = pa.array([f"{before}{number}{after}" for number in numbers])
            columns = {"messages": question(prompts), "answer": pa.array(answers)}
            if self.output == "demonstrations":
                flags = wrong[start : start + count]
                texts = [
                    spoilt(a, self.seed, int(i)) if w else a for a, w, i in zip(answers, flags, index, strict=True)
                ]
                columns["response"] = pa.array(texts)
            yield Result(*make.finished(columns, [], np.arange(count), [], self.name))


def permuted(index: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Places of `index` (uint64, below `size`) in a permutation of 0 .. size-1: a Feistel network with cycle
    walking.
    """
    half = np.uint64(max(1, (max(2, size) - 1).bit_length() + 1 >> 1))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.default_rng(seed).integers(1, 1 << 63, _ROUNDS, dtype=np.uint64)
    result = index.copy()
    todo = np.ones(len(index), bool)
    while todo.any():
        left, right = result[todo] >> half, result[todo] & mask
        for key in keys:
            left, right = right, left ^ (mixed(right + key) & mask)
        result[todo] = (left << half) | right
        todo[todo] = result[todo] >= size
    return result


def spoilt(answer: str, seed: int, index: int) -> str:
    """A plausible wrong answer: a swap of unequal neighbours where the draw says so and there are any, or
    changed digits.
    """
    rng = np.random.default_rng((seed, index))
    digits = list(answer)
    swaps = [at for at in range(len(digits) - 1) if digits[at] != digits[at + 1]]
    if swaps and rng.random() < 0.5:
        at = swaps[rng.integers(len(swaps))]
        digits[at], digits[at + 1] = digits[at + 1], digits[at]
        return "".join(digits)
    for at in rng.choice(len(digits), min(len(digits), int(rng.integers(1, 3))), replace=False):
        digits[at] = str((int(digits[at]) + int(rng.integers(1, 10))) % 10)
    return "".join(digits)
