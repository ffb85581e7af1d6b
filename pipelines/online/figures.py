"""Figures of a step: of the answers that were drawn, whatever became of them, and of the rows that are learnt."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.conversations import flat, starts
from datakit.columns.counted_tokens import CountedTokens
from datakit.columns.measurement import groups, numbers
from schemas.dataset import Dataset
from schemas.manifest import Manifest
from schemas.rows.rollouts import RESPONSE_MASK
from schemas.rows.samples import CUT

_MEANS = ("reward", "correct")
_REWARDS = "reward_"
"""What the columns of several rewards begin with (`--rewards`)."""
_TOKENS = ("response_ids", "logprobs")
_OF_ROWS = ("lag", "importance_ratio")
_DIVERGENT = ("kl", "loss_mask", "drawn_logprobs", "ref_logprobs")


def figures(rollouts: Dataset, answers: Sequence[Dataset]) -> dict[str, float]:
    """Means of `reward` (and of each of several), `correct` and `kl` (`ref_kl`: k1, where rows have no `kl`), tokens of
    an answer (of a conversation those that were drawn, and its `turns`), `entropy` as its tokens tell it, the shares
    of answers that were cut and of prompts whose answers are all rewarded alike, answers and rows that were dropped;
    where prompts were asked in several rounds, how many these were; one step off, the mean `lag` and
    `importance_ratio` of the rows.
    """
    asked = ("prompt_id", "response_ids", "logprobs", "finish_reason", RESPONSE_MASK.name, "turns", *_MEANS)
    there = answers[0].schema.names
    names = [name for name in there if name in asked or name.startswith(_REWARDS)]
    drawn = pa.concat_tables([one.read(names) for one in answers])
    there = rollouts.schema.names
    tells = {"kl", "ref_logprobs"} & {*there}
    kl = kl_of(rollouts.read([name for name in _DIVERGENT if name in there])) if tells else None
    dropped = [*rollouts.rejected, *(file for one in answers for file in one.rejected)]
    return {
        **of_answers(drawn),
        **({"kl" if "kl" in there else "ref_kl": float(np.mean(kl))} if kl is not None and len(kl) else {}),
        **({"rounds": float(len(answers))} if len(answers) > 1 else {}),
        **_means(rollouts, _OF_ROWS),
        "dropped": float(sum(file.rows for file in dropped)),
    }


def of_answers(drawn: pa.Table) -> dict[str, float]:
    """What answers say of themselves; nothing where there are none."""
    if not drawn.num_rows:
        return {}
    several = (one for one in drawn.column_names if one.startswith(_REWARDS) and drawn[one].type == pa.float64())
    means = (*(one for one in _MEANS if one in drawn.column_names), *several)
    made = {name: pc.mean(drawn[name].cast(pa.float64())).as_py() for name in means}
    counted, ends = _drawn_tokens(drawn)
    made["answer_tokens"] = float(np.mean(np.diff(ends)))
    if "turns" in drawn.column_names:
        made["turns"] = pc.mean(drawn["turns"]).as_py()
    made["cut"] = pc.mean(pc.equal(drawn["finish_reason"], CUT).cast(pa.float64())).as_py()
    if "logprobs" in drawn.column_names and len(logprobs := _logprobs(drawn, counted)):
        made["entropy"] = -float(np.mean(logprobs))
    if "reward" in made:
        made |= _equal_groups(drawn)
    return made


def mean_reward(answers: Sequence[Manifest]) -> float:
    """The mean reward of all of a step's answers, as their manifests tell it; -inf where there are none."""
    measured = [one.stats.get("columns", {}).get("reward", {}) for one in answers]
    rewarded = [one for one in measured if "mean" in one]
    answered = sum(one["count"] for one in rewarded)
    return sum(one["mean"] * one["count"] for one in rewarded) / answered if answered else -math.inf


def kl_of(rows: pa.Table) -> npt.NDArray[np.float64] | None:
    """The divergence of every row from the first policy, nats: its `kl`, or k1 over its tokens; None where rows do not
    say it.
    """
    if "kl" in rows.column_names:
        return numbers(rows["kl"])
    if not has_kl(rows.column_names):
        return None
    tokens = CountedTokens.of(rows, "loss_mask")
    return tokens.sums(tokens.read("drawn_logprobs") - tokens.read("ref_logprobs"))


def _means(rollouts: Dataset, names: Sequence[str]) -> dict[str, float]:
    """Means of those of these columns that rows have."""
    there = [name for name in names if name in rollouts.schema.names and rollouts.num_rows]
    rows = rollouts.read(there) if there else pa.table({})
    return {name: float(np.mean(numbers(rows[name]))) for name in there}


def has_kl(names: Sequence[str]) -> bool:
    """Whether rows with columns of these names say what `kl_of` reads."""
    return "kl" in names or {*_DIVERGENT[1:]} <= {*names}


def surprise_of(drawn: pa.Table) -> npt.NDArray[np.float64]:
    """Mean of -log p over the tokens of every answer, nats; infinite for one without any."""
    counted, ends = _drawn_tokens(drawn)
    rows = np.split(_logprobs(drawn, counted), ends[1:-1])
    return np.array([-float(np.mean(row)) if len(row) else np.inf for row in rows[: drawn.num_rows]])


def _drawn_tokens(drawn: pa.Table) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Which tokens behind the prompts were drawn, and where the answers of each row begin and end among these."""
    masked = RESPONSE_MASK.name in drawn.column_names
    tokens = flat(drawn[RESPONSE_MASK.name if masked else next(name for name in _TOKENS if name in drawn.column_names)])
    counted = np.asarray(tokens.flatten()) != 0 if masked else np.ones(len(tokens.flatten()), np.bool_)
    return counted, np.concatenate([[0], np.cumsum(counted)])[starts(tokens)]


def _logprobs(drawn: pa.Table, counted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Log-probabilities of the tokens that were drawn."""
    return np.asarray(flat(drawn["logprobs"]).flatten(), np.float64)[counted]


def _equal_groups(drawn: pa.Table) -> dict[str, float]:
    """The share of prompts with several answers, all of one reward; nothing where each has one."""
    group, reward = groups(drawn["prompt_id"]), numbers(drawn["reward"])
    sizes = np.bincount(group)
    if sizes.max() == 1:
        return {}
    high, low = np.full(len(sizes), -np.inf), np.full(len(sizes), np.inf)
    np.fmax.at(high, group, reward)
    np.fmin.at(low, group, reward)
    return {"equal_groups": float(np.mean((high == low) & (sizes > 1)))}
