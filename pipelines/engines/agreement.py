"""An engine held against our own network before an answer of it is believed.

Two questions: what it thinks of tokens whose log-probabilities our network gave (are these the weights?), and whether
the log-probabilities of what it draws at another temperature, cut to the likeliest, are those of the whole distribution
at temperature 1 (what our sampler writes down, and what a training compares itself with).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datakit.clients import Sampling
from datakit.op import Precision
from pipelines.engines.client import Draw, TokenEngine
from schemas.errors import IntegrityError

_DRAWN = 4
_CUT = Sampling(temperature=0.7, top_k=16, top_p=0.95, max_new_tokens=_DRAWN)


@dataclass(frozen=True)
class Tolerance:
    """Nats by which log-probabilities of tokens may differ: on average, and any one."""

    mean: float
    greatest: float


TOLERANCES: Mapping[Precision, Tolerance] = {"fp32": Tolerance(1e-4, 1e-3), "bf16": Tolerance(0.05, 0.5)}
"""In fp32 two programs differ by the order of their sums. In bf16, against our fp32, a token in some ten is off by more
than 0.1; an output head that is not the one that was trained shows in the mean.
"""


@dataclass(frozen=True)
class Differences:
    """Of numbers that should be the same, one after the other: `ours` [N], `theirs` [N], and where each stands."""

    ours: Sequence[float]
    theirs: Sequence[float]
    places: Sequence[str]

    def within(self, tolerance: Tolerance, engine: str, what: str) -> dict[str, Any]:
        """What was found, plain JSON; `IntegrityError` (11) where it is too much, or where a number is none."""
        apart = np.abs(np.subtract(self.theirs, self.ours))
        apart = np.where(np.isfinite(apart), apart, np.inf)
        mean, worst = float(apart.mean()), int(apart.argmax())
        if not (mean <= tolerance.mean and apart[worst] <= tolerance.greatest):
            most = f"differences of at most {tolerance.greatest:g}, {tolerance.mean:g} on average"
            raise IntegrityError(
                "engine-differs",
                f"{engine} does not compute what Quiver computes: {what}",
                expected=f"{self.ours[worst]:.6f} at {self.places[worst]}; {most}",
                found=f"{self.theirs[worst]:.6f}, which is {apart[worst]:.2g} away; {mean:.2g} on average",
                kept="nothing was asked of it",
                next="ask the checkpoint itself: leave out what stands before the colon of --model",
            )
        return {
            "tokens": len(apart),
            "mean": mean,
            "greatest": float(apart[worst]),
            "tolerance": {"mean": tolerance.mean, "greatest": tolerance.greatest},
        }


def agreed(
    engine: TokenEngine, known: Sequence[Mapping[str, Any]], precision: Precision, name: str, *, draws: bool
) -> dict[str, Any]:
    """What was found of the `engine` called `name`, which computes in `precision`: over the rows `known` (`input_ids`,
    `logprobs`), and where it `draws`, over a few answers; plain JSON. `IntegrityError` (11) where it differs.
    """
    tolerance = TOLERANCES[precision]
    rows = [row["input_ids"] for row in known]
    read = _own(engine.read(rows, 0), rows)
    places = [f"token {at} of row {number}" for number, row in enumerate(rows) for at in range(1, len(row))]
    ours = [value for row in known for value in row["logprobs"][1:]]
    given = Differences(ours, [value for row in read for value in row], places)
    compared: dict[str, Any] = {"engine": name, "precision": precision}
    compared["given"] = given.within(tolerance, name, "log-probabilities of given tokens differ")
    if draws:
        compared["drawn"] = _drawn(engine, rows).within(
            tolerance,
            name,
            "log-probabilities of drawn tokens are not those of the whole distribution at temperature 1",
        )
    return compared


def _drawn(engine: TokenEngine, rows: Sequence[list[int]]) -> Differences:
    """Answers to the first half of each row: the log-probabilities that come with them, and those that reading them
    gives.
    """
    asked = [Draw(row[: (len(row) + 1) // 2], _DRAWN, number) for number, row in enumerate(rows)]
    drawn = engine.draw(asked, _CUT, (), ())
    whole = [[*one.ids, *answer.ids] for one, answer in zip(asked, drawn, strict=True)]
    read = _own(engine.read(whole, 0), whole)
    ours = [value for row, answer in zip(read, drawn, strict=True) for value in row[len(row) - len(answer.ids) :]]
    places = [f"token {at} of answer {n}" for n, answer in enumerate(drawn) for at in range(len(answer.ids))]
    return Differences(ours, [value for answer in drawn for value in answer.logprobs], places)


def _own(read: Sequence[Sequence[Mapping[int, float]]], rows: Sequence[list[int]]) -> list[list[float]]:
    """Of each row the log-probability of every token behind its first; not a number where none was given."""
    return [
        [(one[at].get(number, np.nan) if at < len(one) else np.nan) for at, number in enumerate(row[1:])]
        for one, row in zip(read, rows, strict=True)
    ]
