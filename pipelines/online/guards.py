"""What must hold of every step of an online run; a run that goes astray stops before it learns from the step.

Losses and gradients that are not finite stop any training, and rewards or log-probabilities that are not finite never
reach one; these are bounds that a person sets, none by default.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.measurement import numbers
from pipelines.online.figures import has_kl, kl_of, surprise_of
from schemas.dataset import Dataset
from schemas.errors import ConfigError, HealthError, printable
from schemas.rows.rollouts import RESPONSE_MASK
from schemas.setting_faults import check_ranges
from schemas.store.storage import shown
from trainers.algorithm import Algorithm

_BY_FLAGS = ("--set settings.kl_coefficient=0.001", "leave max_kl out of --guards")
IN_A_FILE = ("set settings.kl_coefficient of its run to 0.001", "leave out guards.max_kl")
_NAMED = 5
"""Rows that an error names."""
_MEASURED = {"reward": "reward", "entropy": "logprobs"}
"""The column of answers that a figure is measured on."""


@dataclass(frozen=True, kw_only=True)
class Guards:
    """Bounds over the figures of a step (None: not watched): `max_kl`, of `kl` or `ref_kl`, nats an answer;
    `min_entropy`, of `entropy`, nats a token; `max_reward_drop`, how far `reward` may fall below its highest so far.
    """

    max_kl: float | None = None
    min_entropy: float | None = None
    max_reward_drop: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in vars(self).items() if value is not None}
        check_ranges("guards", **{name: (one, 0 <= one < math.inf, "at least 0") for name, one in given.items()})

    def check_rows(
        self, names: Sequence[str], algorithm: Algorithm, where: str, cures: tuple[str, str] = _BY_FLAGS
    ) -> None:
        """`ConfigError` for a bound that rows with columns of these names never break, because they do not tell its
        figure; `algorithm` is what learns them. cures: how its loss tells it, and how to do without the bound.
        """
        if self.max_kl is None or has_kl(names):
            return
        weighs = hasattr(algorithm.settings, "kl_coefficient")
        raise ConfigError(
            "unmeasured-bound",
            "max_kl among the guards would never stop this run: no row says how far it is from the first policy",
            expected="kl among the columns of a step, or drawn_logprobs and ref_logprobs",
            found=", ".join(names),
            where=f"{where} (train.{algorithm.name})",
            kept="nothing was started",
            next=cures[0] if weighs else cures[1],
        )

    def faults(self, figures: Mapping[str, float], highest: float) -> Iterator[tuple[str, float, str]]:
        """Each bound that `figures` break: the figure, its value and what was expected; `highest` is the best mean
        reward of the steps before (-inf: there were none).
        """
        entropy, reward = (figures.get(name, math.nan) for name in ("entropy", "reward"))
        kl = figures.get("kl", figures.get("ref_kl", math.nan))
        if self.max_kl is not None and kl > self.max_kl:
            yield "kl", kl, f"at most {self.max_kl:g} nats an answer"
        if self.min_entropy is not None and entropy < self.min_entropy:
            yield "entropy", entropy, f"at least {self.min_entropy:g} nats a token"
        if self.max_reward_drop is not None and reward < highest - self.max_reward_drop:
            yield "reward", reward, f"no more than {self.max_reward_drop:g} below {highest:.4g}, its highest"

    def check(
        self, step: int, figures: Mapping[str, float], highest: float, rollouts: Dataset, answers: Sequence[Dataset]
    ) -> None:
        """`HealthError` where step `step`, of which these are the `rollouts` and the `answers` of all rounds, breaks a
        bound; it names the answers that are farthest off.
        """
        for name, value, expected in self.faults(figures, highest):
            rows = ", ".join(map(printable, farthest(name, rollouts, answers)))
            raise HealthError(
                f"guard-{name}",
                f"{name} of the answers of step {step} is {value:.4g}; nothing was learnt from them",
                expected=expected,
                found=f"{value:.4g}, farthest off {rows}",
                where=shown(rollouts.url),
                next=f"quiver show {shown(rollouts.url)}",
            )


def farthest(name: str, rollouts: Dataset, answers: Sequence[Dataset]) -> Sequence[str]:
    """The `sample_id` of the answers, of all rounds, that make `name` what it is: of `reward` the lowest, of `entropy`
    those whose tokens were the likeliest, of `kl` those farthest from the first policy.
    """
    if name == "kl":
        drawn = rollouts.read()
        values = kl_of(drawn)
        assert values is not None, "a figure without its rows"
        measured = -values
    else:
        names = ("sample_id", _MEASURED[name], RESPONSE_MASK.name)
        there = [one for one in names if one in answers[0].schema.names]
        drawn = pa.concat_tables([one.read(there) for one in answers])
        measured = numbers(drawn["reward"]) if name == "reward" else surprise_of(drawn)
    order = np.argsort(measured, kind="stable")[:_NAMED]
    named: list[str] = pc.take(drawn["sample_id"], pa.array(order)).to_pylist()
    return named
