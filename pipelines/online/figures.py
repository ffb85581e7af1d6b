"""Figures of a step: of the answers that were drawn, whatever became of them, and of the rows that are learnt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.measurement import groups, numbers
from schemas.dataset import Dataset
from schemas.rows.samples import CUT

_MEANS = ("reward", "correct")


def figures(rollouts: Dataset, answers: Sequence[Dataset]) -> dict[str, float]:
    """Means of `reward`, `correct` and `kl`, tokens of an answer, the shares of answers that were cut and of prompts
    whose answers are all rewarded alike, answers and rows that were dropped; where prompts were asked in several
    rounds, how many these were.
    """
    asked = ("prompt_id", "response_ids", "finish_reason", *_MEANS)
    names = [name for name in asked if name in answers[0].schema.names]
    drawn = pa.concat_tables([one.read(names) for one in answers])
    kl = rollouts.stats["columns"].get("kl", {})
    dropped = [*rollouts.rejected, *(file for one in answers for file in one.rejected)]
    return {
        **of_answers(drawn),
        **({"kl": kl["mean"]} if "mean" in kl else {}),
        **({"rounds": float(len(answers))} if len(answers) > 1 else {}),
        "dropped": float(sum(file.rows for file in dropped)),
    }


def of_answers(drawn: pa.Table) -> dict[str, float]:
    """What answers say of themselves; nothing where there are none."""
    if not drawn.num_rows:
        return {}
    made = {name: pc.mean(drawn[name].cast(pa.float64())).as_py() for name in _MEANS if name in drawn.column_names}
    made["answer_tokens"] = pc.mean(pc.list_value_length(drawn["response_ids"])).as_py()
    made["cut"] = pc.mean(pc.equal(drawn["finish_reason"], CUT).cast(pa.float64())).as_py()
    if "reward" in made:
        made |= _equal_groups(drawn)
    return made


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
