"""Token rows: what trainers eat. The mask stands on the token that is predicted; trainers do the shift by one."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from schemas.rows.conversation import IDS
from schemas.schema import Column, Schema

MASK = pa.list_(pa.int8())


@dataclass(frozen=True)
class SequenceColumns:
    """What the columns of one sequence of tokens are called: its `ids`, the `mask` of those that count, in packs the
    `lengths` of the sequences inside, and the `text` that it holds the tokens of (empty: a whole conversation).
    """

    ids: str
    mask: str
    lengths: str
    text: str = ""


def sequence_columns(ids: str) -> SequenceColumns:
    """The columns that stand beside those of `ids`: `loss_mask` beside `input_ids`, `chosen_mask` and `chosen_lengths`
    beside `chosen_ids`, which are the tokens of `chosen`.
    """
    if ids == "input_ids":
        return SequenceColumns(ids, "loss_mask", "lengths")
    text = ids.removesuffix("_ids")
    return SequenceColumns(ids, f"{text}_mask", f"{text}_lengths", text)


TOKENS = Schema(
    "tokens",
    1,
    (
        Column("sample_id", pa.string(), "the row this was made from"),
        Column("input_ids", IDS, "the whole sequence"),
        Column("loss_mask", MASK, "1 where the token is predicted and counted; as long as input_ids"),
        Column("source", pa.string(), "where the row came from", nullable=True),
    ),
    key=("sample_id",),
)

TAUGHT_TOKENS = TOKENS.adding(
    Column("teacher_ids", pa.list_(IDS), "likeliest ids at every token of input_ids"),
    Column("teacher_logprobs", pa.list_(pa.list_(pa.float32())), "their log-probabilities in nats"),
).renamed("taught_tokens", version=TOKENS.version, key=TOKENS.key)
"""Tokens with a teacher's likeliest ids, greatest first, as `label.topk` writes them: 0 at the first token."""

PACKS = Schema(
    "packs",
    1,
    (
        Column("pack_id", pa.string(), "function of the rows inside"),
        Column("input_ids", IDS, "several sequences laid end to end"),
        Column("loss_mask", MASK, "as in tokens"),
        Column("lengths", IDS, "tokens of each sequence inside, in order"),
        Column("sample_ids", pa.list_(pa.string()), "the row of each sequence inside"),
    ),
    key=("pack_id",),
)

SOURCES = Column("sources", pa.list_(pa.string()), "where each sequence inside came from")
"""What packs have beside their kind's columns when their rows had a `source`."""

PAIRS = Schema(
    "pairs",
    2,
    (
        Column("pair_id", pa.string(), "the preference this was made from"),
        Column("chosen_ids", IDS, "the better answer, templated with its question"),
        Column("chosen_mask", MASK, "1 where its token is predicted and counted; as long as chosen_ids"),
        Column("rejected_ids", IDS, "the worse one"),
        Column("rejected_mask", MASK, "as in chosen_mask"),
        Column("source", pa.string(), "where the row came from", nullable=True),
    ),
    key=("pair_id",),
)

PACKED_PAIRS = Schema(
    "packed_pairs",
    1,
    (
        Column("pack_id", pa.string(), "function of the pairs inside"),
        Column("chosen_ids", IDS, "the better answers of several pairs laid end to end"),
        Column("chosen_mask", MASK, "as in pairs"),
        Column("chosen_lengths", IDS, "tokens of each of them, in order"),
        Column("rejected_ids", IDS, "the worse ones"),
        Column("rejected_mask", MASK, "as in pairs"),
        Column("rejected_lengths", IDS, "tokens of each of them, in order"),
        Column("pair_ids", pa.list_(pa.string()), "the pair of each"),
    ),
    key=("pack_id",),
)
