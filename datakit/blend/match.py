"""Two answers to the same question beside each other, for a judge to compare: which is better is not known yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.columns.drawn import finish_reasons
from datakit.columns.measurement import groups
from datakit.columns.rejections import ids_and_numbers, set_aside
from datakit.columns.seeded import Keys, mixed, text_keys
from datakit.duck.whole import require_whole
from datakit.formats.ids import content_ids
from datakit.op import Context, Gather, Result, Size
from schemas import SAMPLES, Schema, with_columns
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.rows.comparisons import COMPARISONS, SIDES

_MOST_ANSWERS = 64  # of one prompt: pairs grow as their square


@dataclass(frozen=True, kw_only=True)
class Match(Gather):
    """Up to `max_pairs` pairs of every prompt's answers that differ in their text, by lot, each in an order by lot.

    Which are drawn is a function of the run's seed and the answers' ids. For each (column, name) of `beside` a pair has
    `first_<name>` and `second_<name>`. An answer that stands in none is rejected, with its ids and numbers: one-answer
    (to its prompt), same-text (as all others), too-many-answers (of one prompt, over 64), or beyond-max-pairs. Answers
    without a visible character are rejected first (no-text).
    """

    name: ClassVar[str] = "blend.match"

    max_pairs: int = 1
    beside: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.max_pairs < 1:
            raise ConfigError(
                "bad-setting", f"blend.match: max_pairs {self.max_pairs}", expected="1 or more",
                kept="nothing was started",
            )  # fmt: skip

    @property
    def takes(self) -> Schema:
        """A sample's ids, conversation and answer."""
        return SAMPLES.selecting("prompt_id", "messages", "sample_id", "response").renamed("answers")

    def gives(self, *inputs: Schema) -> Schema:
        kept = zip(inputs[0].selecting(*(name for name, _ in self.beside)).columns, self.beside, strict=True)
        sides = [(side, one) for one in kept for side in SIDES]
        return COMPARISONS.adding(*(replace(column, name=f"{side}_{new}") for side, (column, (_, new)) in sides))

    def grown(self, given: Size) -> Size:
        return given.times(self.max_pairs)

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """`DataError` where the samples of one prompt lie in two shards."""
        require_whole(dataset, "prompt_id", self.name)
        return {}

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """Pairs, prompts in the order of their first answer; answers that stand in none beside them."""
        group, texts = groups(rows["prompt_id"]), groups(rows["response"])
        lots = text_keys(rows["sample_id"], ctx.seed, self.name)
        visible = np.asarray(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(rows["response"])), 0), bool)
        reason = np.where(visible, "", "no-text").astype(object)
        pairs: list[tuple[int, int]] = []
        for members in _members(group, visible):
            different = len({*texts[members].tolist()})
            why = "one-answer" if len(members) < 2 else "same-text" if different < 2 else "beyond-max-pairs"
            why = "too-many-answers" if len(members) > _MOST_ANSWERS else why
            reason[members] = why
            if why == "beyond-max-pairs":
                drawn = _drawn(members, texts, lots, self.max_pairs)
                pairs += drawn
                reason[[row for pair in drawn for row in pair]] = ""
        left = np.flatnonzero(reason != "")
        answers = ids_and_numbers(rows, "prompt_id", "sample_id").take(pa.array(left, pa.int64()))
        why_left = pa.array(reason[left].tolist(), pa.string())
        return Result(self._paired(rows, np.array(pairs, np.int64).reshape(-1, 2)), set_aside(answers, why_left))

    def _paired(self, rows: pa.Table, pairs: np.ndarray) -> pa.Table:
        asked = [name for name in ("prompt_id", "messages", "tools", "source") if name in rows.column_names]
        question, reasons = rows.select(asked).take(pa.array(pairs[:, 0])), finish_reasons(rows)
        along: dict[str, Any] = {}
        made: dict[str, Any] = dict(zip(asked, question.columns, strict=True))
        for at, side in enumerate(SIDES):
            places = pa.array(pairs[:, at])
            made |= {
                side: rows["response"].take(places),
                f"{side}_sample_id": rows["sample_id"].take(places),
                f"{side}_finish_reason": reasons.take(places),
            }
            along |= {f"{side}_{new}": rows[name].take(places) for name, new in self.beside}
        made["pair_id"] = content_ids(made["prompt_id"], made["first_sample_id"], made["second_sample_id"])
        return with_columns(COMPARISONS.conform(pa.table(made)), along)


def _members(group: np.ndarray, visible: np.ndarray) -> list[np.ndarray]:
    """The places of every prompt's visible answers, prompts in the order of their first answer."""
    order = np.flatnonzero(visible)
    order = order[np.argsort(group[order], kind="stable")]
    return [part for part in np.split(order, np.flatnonzero(np.diff(group[order])) + 1) if len(part)]


def _drawn(members: np.ndarray, texts: np.ndarray, lots: Keys, most: int) -> list[tuple[int, int]]:
    """`most` pairs of `members` of different texts: the smallest lots, which also say who stands first."""
    one, other = np.triu_indices(len(members), 1)
    one, other = members[one], members[other]
    apart = texts[one] != texts[other]
    one, other = one[apart], other[apart]
    low, high = np.minimum(lots[one], lots[other]), np.maximum(lots[one], lots[other])
    lot = mixed(low + mixed(high))
    chosen = np.argsort(lot, kind="stable")[:most]
    ahead = (lot & np.uint64(1)).astype(bool) ^ (lots[one] < lots[other])
    return [(int(a), int(b)) if first else (int(b), int(a)) for a, b, first in
            zip(one[chosen], other[chosen], ahead[chosen], strict=True)]  # fmt: skip
