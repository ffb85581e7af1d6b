"""Rewards of the answers to one prompt, held against each other: what group advantages have in common.

Legend: B answers. Numbers of a group are those of its voters, which are all answers or those alone that came to an end.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.columns.counted_tokens import CountedTokens, Floats
from datakit.columns.measurement import NOT_FINITE, groups, numbers
from datakit.columns.rejections import set_aside
from datakit.duck.whole import require_whole
from datakit.op import Context, Gather, Result
from schemas import Column, Schema, with_columns
from schemas.dataset import Dataset
from schemas.errors import counted
from schemas.manifest import Manifest
from schemas.rows.rollouts import ADVANTAGES
from schemas.rows.samples import CUT
from schemas.rows.tokens import MASK

_GROUPS, _EQUAL, _ALONE = "groups", "groups_with_equal_rewards", "answers_without_another"
_ADDED = (
    Column("advantage", pa.float64(), "how much better the answer is than the others of its group", finite=True),
    Column("baseline", pa.float64(), "the reward that it is held against", finite=True),
    Column("group_size", pa.int32(), "answers that the group's numbers are of"),
    Column("group_std", pa.float64(), "standard deviation of their rewards (n - 1); exactly 0 where they are equal"),
    ADVANTAGES,
)


@dataclass(frozen=True)
class Groups:
    """Answers by the number of their group, their rewards, and which are voters."""

    group_B: npt.NDArray[np.int64]
    reward_B: Floats
    voter_B: npt.NDArray[np.bool_]

    def sum(self, values_B: Floats) -> Floats:
        """The sum over the voters of each answer's group [B]."""
        count = int(self.group_B.max(initial=-1)) + 1
        summed = np.bincount(self.group_B, weights=values_B * self.voter_B, minlength=count)
        return summed.astype(np.float64)[self.group_B]

    @cached_property
    def size_B(self) -> Floats:
        """Voters of each answer's group."""
        return self.sum(np.ones(len(self.group_B)))

    @cached_property
    def others_B(self) -> Floats:
        """Voters of the group besides the answer itself."""
        return self.size_B - self.voter_B

    @cached_property
    def mean_B(self) -> Floats:
        """Mean reward of the group; of equal rewards exactly their value, where there is no voter NaN."""
        first = np.full(int(self.group_B.max(initial=-1)) + 1, np.nan)
        place = np.flatnonzero(self.voter_B)[::-1]
        first[self.group_B[place]] = self.reward_B[place]
        origin_B = first[self.group_B]
        with np.errstate(invalid="ignore"):
            return origin_B + self.sum(np.nan_to_num(self.reward_B - origin_B)) / self.size_B

    @cached_property
    def squares_B(self) -> Floats:
        """Sum of the voters' squared distances from the mean."""
        return self.sum(np.nan_to_num(self.reward_B - self.mean_B) ** 2)

    @property
    def std_B(self) -> Floats:
        """Standard deviation of the group (n - 1), 0 for fewer than two."""
        return np.sqrt(self.squares_B / np.maximum(self.size_B - 1, 1))

    @property
    def mean_of_others_B(self) -> Floats:
        """Mean reward of the other voters; NaN where there are none."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self.mean_B - self.voter_B * (self.reward_B - self.mean_B) / self.others_B

    @property
    def std_of_others_B(self) -> Floats:
        """Standard deviation of the other voters (n - 1); 0 for fewer than two, and exactly 0 where they are equal."""
        own_B = self.voter_B * np.nan_to_num(self.reward_B - self.mean_B) ** 2
        left_B = self.squares_B - own_B * (1 + 1 / np.maximum(self.others_B, 1))
        std_B = np.sqrt(np.maximum(left_B, 0) / np.maximum(self.others_B - 1, 1))
        apart_B = self.voter_B & (left_B < 0.01 * self.squares_B)  # at most one a group: the rest would be rounding
        rest = Groups(self.group_B, self.reward_B, self.voter_B & ~apart_B)
        return np.where(apart_B, rest.std_B, std_B) * (self.others_B > 1)


@dataclass(frozen=True, kw_only=True)
class GroupRewards(Gather):
    """An advantage of every answer, from the rewards of all answers to its prompt."""

    key: str = "prompt_id"
    """Rows with the same value are one group."""
    reward: str = "reward"
    mask: str = "loss_mask"
    voters: Literal["all", "ended"] = "all"
    """Whose rewards a group's numbers are of; `ended`: answers that were cut at their limit (`finish_reason` length)
    have no say in the others' baseline, as in NeMo-Aligner."""
    alone: Literal["zero", "reward"] = "zero"
    """The advantage of an answer that has no other to be held against: 0 as in NeMo-RL, or its reward as in verl."""

    @property
    def token_bytes(self) -> int:
        return 4

    @property
    def takes(self) -> Schema:
        """Key, reward and mask, and how an answer ended where that has a say."""
        ended = (Column("finish_reason", pa.string(), "length: the answer was cut"),) if self.voters == "ended" else ()
        columns = (
            Column(self.key, pa.string(), "rows with the same value are one group"),
            Column(self.reward, pa.float64(), "reward of the whole answer", nullable=True),
            Column(self.mask, MASK, "1 where a token counts"),
        )
        return Schema("rewarded rollouts", 1, (*columns, *ended))

    def gives(self, *inputs: Schema) -> Schema:
        return inputs[0].adding(*_ADDED)

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """`DataError` where the answers to one prompt lie in two shards."""
        require_whole(dataset, self.key, self.name)
        return {}

    @abstractmethod
    def estimate(self, groups: Groups) -> tuple[Floats, Floats]:
        """Advantage and baseline [B]; the baseline is NaN where an answer has nothing to be held against."""

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """Rows in their order with the new columns; those without a finite reward go."""
        finite = np.isfinite(numbers(rows[self.reward]))
        kept = rows.filter(pa.array(finite))
        ended_B = np.ones(kept.num_rows, bool)
        if self.voters == "ended":
            ended_B = np.asarray(kept["finish_reason"]) != CUT
        given = Groups(groups(kept[self.key]), numbers(kept[self.reward]), ended_B)
        advantage_B, baseline_B = self.estimate(given)
        alone_B = np.isnan(baseline_B)
        if self.alone == "zero":
            baseline_B = np.where(alone_B, given.reward_B, baseline_B)
            advantage_B = np.where(alone_B, 0.0, advantage_B)
        else:
            baseline_B = np.where(alone_B, 0.0, baseline_B)
            advantage_B = np.where(alone_B, given.reward_B, advantage_B)
        tokens = CountedTokens.of(kept, self.mask)
        lists = tokens.column(tokens.each(advantage_B))
        made = (advantage_B, baseline_B, given.size_B.astype(np.int32), given.std_B, lists)
        columns = {column.name: values for column, values in zip(_ADDED, made, strict=True)}
        gone = set_aside(rows.filter(pa.array(~finite)), NOT_FINITE, threshold="a finite reward")
        first = np.unique(given.group_B, return_index=True)[1]
        equal = (given.std_B[first] == 0) & (given.size_B[first] > 1)
        counts = {_GROUPS: len(first), _EQUAL: int(equal.sum()), _ALONE: int(alone_B.sum())}
        return Result(with_columns(kept, columns), gone, counts)

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """How many groups teach nothing, and which answers had no other."""
        counts = made.stats.get("counts", {})
        of = f"of {int(counts.get(_GROUPS, 0)):,} groups"
        notes = []
        if equal := int(counts.get(_EQUAL, 0)):
            notes.append(f"{equal:,} {of} have equal rewards and give no signal: group_std > 0 leaves them out")
        if alone := int(counts.get(_ALONE, 0)):
            given = "0" if self.alone == "zero" else "the reward"
            answers, whose = counted(alone, "answer"), "its" if alone == 1 else "their"
            notes.append(f"{answers} without another to be held against: {whose} advantage is {given}")
        return tuple(notes)
