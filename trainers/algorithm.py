"""The contract between an algorithm and the engine.

An algorithm is arithmetic: it gets what one network says of the tokens of some rows (`ModelOutputs`) and what the rows
hold besides (reference log-probs, advantages, rewards: columns that datakit wrote), and answers with values that are
NOT reduced. The engine runs the network, and divides by the sum of the weights over the whole global batch, so no loss
depends on how a batch is cut into micro-batches, data-parallel, tensor-parallel or pipeline parts.

Everything an algorithm compares itself with is a column: there is one trainable network and no second forward pass.
What a loss needs of the batch as a whole must therefore be a column too, or a `statistic`: a (sum, count) pair per
micro-batch that the engine gathers over the global batch in a pass without gradient before it asks for the loss, and
hands over among the `rows` as one number under the statistic's name (KTO's reference point is one).

Neither this module nor a file of `trainers.algorithms` imports torch when it is imported: a graph reads what an
algorithm eats and reports without the seconds that takes. A loss gets tensors handed in and uses their methods and
`trainers.arithmetic`.

Legend: B rows of a micro-batch (of a pack: the sequences inside), T predicted tokens of one sequence column (all rows
laid end to end), K choices per token or entries per row, H outputs of a scalar head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, Flag, auto
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from schemas.rows.conversation import IDS
from schemas.rows.tokens import sequence_columns
from schemas.schema import Column, Schema
from trainers.arithmetic import sum_per_row

if TYPE_CHECKING:
    from torch import Tensor


class Needs(Flag):
    """What the network must say of a sequence column."""

    LOGPROBS = auto()
    """log-probability of every token after the first, [T]"""
    ENTROPY = auto()
    """entropy in nats of the distribution that token was drawn from, [T]"""
    GATHERED = auto()
    """log-probabilities of the ids in the sequence's `gather_ids` column, [T, K]"""
    GATHERED_LOGITS = auto()
    """logits of those ids less a constant of each token, [T, K]: what no other id has a part in, so that rounding gives
    none of them a gradient"""
    VALUES = auto()
    """output of the scalar head at the position before every token after the first, [T, H]"""
    SCORES = auto()
    """output of the scalar head at the last token of every row, [B, H]"""
    RANKED_LOGITS = auto()
    """the K largest logits less a constant of each token, greatest first, [T, K]; K is how wide the sequence's `ranked`
    column is"""

    @property
    def scalar(self) -> bool:
        """Whether the scalar head is asked, not the language-model head."""
        return bool(self & (Needs.VALUES | Needs.SCORES))


class Per(Enum):
    """What the loss is counted over."""

    ROW = "row"
    TOKEN = "token"


@dataclass(frozen=True, kw_only=True)
class TokenColumn:
    """A column of token ids that the network reads, and the list columns that run along with it.

    `mask` (1 = predicted and counted) and every `aligned` column hold one entry per token of `ids`; `gather_ids` holds
    K ids per token, `ranked` (one of the aligned) K numbers, of a teacher's likeliest first. The engine drops the entry
    of the first token, which nothing predicts. A row whose mask counts no token is refused before the first step. A
    column that is `statistics_only` is read in the pass for the algorithm's statistics, which then reads no other, and
    not in the pass with gradient. `reference` is the number column of what a reference policy gives the counted tokens
    of a row, where the algorithm holds them against one.
    """

    ids: str
    mask: str | None = None
    aligned: tuple[str, ...] = ()
    gather_ids: str | None = None
    ranked: str | None = None
    reference: str | None = None
    statistics_only: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Every list column that is as long as `ids`."""
        return tuple(name for name in (self.mask, *self.aligned, self.gather_ids) if name is not None)

    @property
    def lengths(self) -> str:
        """The column of packs that holds how long each sequence in `ids` is."""
        return sequence_columns(self.ids).lengths

    @property
    def text(self) -> str:
        """The column of rows whose text is read as `ids`; empty where that is a whole conversation."""
        return sequence_columns(self.ids).text


@dataclass(frozen=True)
class ModelOutputs:
    """What the network says of one sequence column of B rows."""

    row_T: Tensor
    num_rows: int
    answers: Mapping[Needs, Tensor]

    @property
    def logprobs_T(self) -> Tensor:
        """Log-probability of every token after the first."""
        return self.answers[Needs.LOGPROBS]

    @property
    def entropy_T(self) -> Tensor:
        """Entropy of the next token behind each of the T tokens, in nats; with `Needs.ENTROPY`."""
        return self.answers[Needs.ENTROPY]

    @property
    def gathered_TK(self) -> Tensor:
        """Log-probabilities of the ids in the `gather_ids` column."""
        return self.answers[Needs.GATHERED]

    @property
    def gathered_logits_TK(self) -> Tensor:
        """Logits of the ids in the `gather_ids` column, less a constant of each token."""
        return self.answers[Needs.GATHERED_LOGITS]

    @property
    def ranked_logits_TK(self) -> Tensor:
        """The largest logits, greatest first, less a constant of each token."""
        return self.answers[Needs.RANKED_LOGITS]

    @property
    def values_TH(self) -> Tensor:
        """Scalar head before every token after the first."""
        return self.answers[Needs.VALUES]

    @property
    def scores_BH(self) -> Tensor:
        """Scalar head at the last token of every row."""
        return self.answers[Needs.SCORES]

    def sum_per_row(self, values_T: Tensor) -> Tensor:
        """`values_T` added up within every row, [B]."""
        return sum_per_row(values_T, self.row_T, self.num_rows)


Rows: TypeAlias = "Mapping[str, Tensor]"
"""Columns by name: aligned columns laid end to end [T], number columns [B], vector columns [B, K], statistics []."""

SumCount: TypeAlias = "tuple[Tensor, Tensor]"
"""A mean that is still open: its sum and its count."""


@dataclass(frozen=True)
class Loss:
    """Unreduced: `values` and `weights` are both [B] or both [T]; the loss is sum(values * weights) / sum(weights).

    Values per token are those of the first sequence column. `metrics` are (sum, count) pairs; what is reported is the
    quotient of the sums over the global batch. `row_metrics` are numbers of every row, [B], for the records of the run.
    """

    values: Tensor
    weights: Tensor
    metrics: Mapping[str, SumCount]
    row_metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ImplicitReward:
    """The reward that an answer has by its log-probability: `scale` times that of its counted tokens, less what a
    reference gives them where it is `referred`, divided by their number where it is `averaged`.
    """

    scale: float
    referred: bool = True
    averaged: bool = False

    @property
    def meaning(self) -> str:
        """The same in words, as tables of rewards explain them."""
        logprob = "mean log-probability per token" if self.averaged else "log-probability"
        of_answer = (
            f"what an answer's {logprob} gained over the reference" if self.referred else f"an answer's {logprob}"
        )
        return f"{self.scale:g} times {of_answer}"


LossFn: TypeAlias = Callable[[Any, Mapping[str, ModelOutputs], Rows], Loss]
StatisticsFn: TypeAlias = Callable[[Any, Mapping[str, ModelOutputs], Rows], Mapping[str, SumCount]]


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A way of learning: the rows it eats, what it asks of the network, and its loss.

    `settings` is a frozen dataclass (the algorithm's options), `metrics` the names its loss reports besides `loss`,
    `row_metrics` what it reports of every row, and `statistics` (with the function `statistics_of`) what it must know
    of the whole batch before the loss. `implicit_reward` gives what an algorithm over preferences takes for an answer's
    reward, under some settings; its loss and the figures of held-out pairs read it. `weights_of` gives the weights of
    the loss before it is known (default: 1 for each row, or what the mask says of each token). `output_names` says what
    the numbers of the scalar head are called under some settings (default: as many as the model says, without names);
    the vector columns hold as many. `presets` are settings with a name of their own, which stands wherever an
    algorithm's does: what else is set goes over them. `in_recipes` are settings that recipes give it where nothing else
    does. The formula of one with `one_update` holds for answers of the very weights that learn: for one update of each
    step of an online run. `adapted` gives what the algorithm is under some settings, where these change what it reads,
    reports or counts over; what is declared here holds for the default settings.
    """

    name: str
    rows: Schema
    sequences: tuple[TokenColumn, ...]
    needs: Needs
    per: Per
    settings: type
    loss: LossFn
    metrics: tuple[str, ...] = ()
    row_metrics: tuple[str, ...] = ()
    implicit_reward: Callable[[Any], ImplicitReward] | None = None
    output_names: Callable[[Any], tuple[str, ...]] | None = None
    statistics: tuple[str, ...] = ()
    statistics_of: StatisticsFn | None = None
    weights_of: Callable[[Rows], Tensor] | None = None
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    in_recipes: Mapping[str, Any] = field(default_factory=dict)
    one_update: bool = False
    adapted: Callable[[Algorithm, Any], Algorithm] | None = None

    def __post_init__(self) -> None:
        used = self.lists
        missing = [name for name in used if name not in self.rows]
        assert not missing, f"{self.name} reads {missing}, which {self.rows.name} does not hold"
        assert {*self.references} <= {*self.numbers}, f"{self.name}: references are numbers of {self.rows.name}"
        assert len(self.references) in (0, len(self.sequences)), f"{self.name}: a reference of some sequences"
        assert len(used) == len(set(used)), f"{self.name} reads a column twice: {used}"
        assert bool(self.statistics) == (self.statistics_of is not None), f"{self.name}: statistics without a function"
        of_tokens = Needs.LOGPROBS | Needs.ENTROPY | Needs.GATHERED | Needs.GATHERED_LOGITS | Needs.RANKED_LOGITS
        both = self.needs.scalar and self.needs & of_tokens
        assert not both, f"{self.name} asks two heads: {self.needs}"
        assert self.learnt and self.learnt[0] == self.sequences[0], f"{self.name}: its first sequence is not learnt"
        assert self.needs.scalar or self.output_names is None, f"{self.name}: output names without a scalar head"

    def under(self, settings: Any) -> Algorithm:
        """The algorithm as it is under `settings`: what the engine and all checks of rows are given."""
        return self if self.adapted is None else self.adapted(self, settings)

    def num_outputs(self, settings: Any, default: int = 1) -> int:
        """How many numbers the scalar head gives under `settings`; `default` where the algorithm leaves that open."""
        return default if self.output_names is None else len(self.output_names(settings))

    def longest(self, positions: int) -> int:
        """Tokens of the longest sequence for a network of so many positions: the last token is only predicted, never
        read, unless a score is read there.
        """
        return positions + (Needs.SCORES not in self.needs)

    @property
    def lists(self) -> tuple[str, ...]:
        """The list columns it reads: token ids and what runs along with them."""
        return tuple(name for sequence in self.sequences for name in (sequence.ids, *sequence.columns))

    @property
    def references(self) -> tuple[str, ...]:
        """The columns of a reference's log-probabilities, one for each sequence; often none."""
        return tuple(sequence.reference for sequence in self.sequences if sequence.reference is not None)

    @property
    def learnt(self) -> tuple[TokenColumn, ...]:
        """The sequences that the loss is of."""
        return tuple(sequence for sequence in self.sequences if not sequence.statistics_only)

    @property
    def measured(self) -> tuple[TokenColumn, ...]:
        """The sequences that the statistics are of: those that are there for them alone, or all."""
        return tuple(sequence for sequence in self.sequences if sequence.statistics_only) or self.sequences

    @property
    def wide(self) -> tuple[str, ...]:
        """The aligned columns that hold several entries per token."""
        aligned = (name for sequence in self.sequences for name in sequence.aligned)
        return tuple(name for name in aligned if pa.types.is_list(self.rows[name].type.value_type))

    @property
    def numbers(self) -> tuple[str, ...]:
        """The number columns it reads: those of `rows` that are neither nullable nor part of the key."""
        return tuple(column.name for column in self._others() if _is_number(column.type))

    @property
    def vectors(self) -> tuple[str, ...]:
        """The columns of one list of numbers per row; a null entry reaches the loss as NaN.

        An infinite one, and a row without any judgement, are refused before the first step.
        """
        lists = (column for column in self._others() if pa.types.is_list(column.type))
        return tuple(c.name for c in lists if c.name not in self.lists and _is_number(c.type.value_type))

    def packed(self, schema: Schema) -> bool:
        """Whether rows of `schema` are packs: several sequences of each column laid end to end, lengths beside."""
        lengths = [sequence.lengths for sequence in self.sequences]
        return all(name in schema and name not in self.rows for name in lengths)

    def reads(self, schema: Schema) -> Schema:
        """What it reads of rows of `schema`; of packs the lengths too, and its numbers as lists."""
        needed = self.rows.selecting(*self.lists, *self.vectors, *self.numbers)
        if not self.packed(schema):
            return needed
        numbers = (
            replace(column, type=pa.list_(column.type)) for column in needed.columns if column.name in self.numbers
        )
        lengths = (Column(sequence.lengths, IDS, "tokens of each inside") for sequence in self.sequences)
        return needed.adding(*numbers, *lengths)

    def _others(self) -> Iterator[Column]:
        key = self.rows.key
        return (column for column in self.rows.columns if not column.nullable and column.name not in key)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def sum_count(values: Tensor, weights: Tensor | None = None) -> SumCount:
    """The open mean of `values` (weighted): its sum and its count, without gradient."""
    values = values.detach().float()
    if weights is None:
        return values.sum(), values.new_tensor(float(values.numel()))
    weights = weights.float()
    return (values * weights).sum(), weights.sum()
