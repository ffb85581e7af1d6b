"""What the columns beside a column of ids are called, held against the row kinds that have them."""

from __future__ import annotations

import pytest

from schemas import IDS, PACKED_PAIRS, PACKS, PAIRS, TOKENS, Schema
from schemas.rows.tokens import MASK, SequenceColumns, sequence_columns
from schemas.tokenizer_lineage import id_columns, token_columns
from trainers.algorithms import dpo, kto, sft


@pytest.mark.parametrize("kind", [TOKENS, PACKS, PAIRS, PACKED_PAIRS], ids=lambda kind: kind.name)
def test_every_kind_of_token_rows_is_named_so(kind: Schema) -> None:
    sequences = [sequence_columns(name) for name in kind.names if name.endswith("_ids") and kind[name].type == IDS]
    assert sequences and all(kind[one.mask].type == MASK for one in sequences)
    packed = {one.lengths: one.lengths in kind for one in sequences}
    assert set(packed.values()) == {"pack" in kind.name}, packed


def test_names_follow_the_text_that_was_tokenized() -> None:
    assert sequence_columns("input_ids") == SequenceColumns("input_ids", "loss_mask", "lengths", "")
    assert sequence_columns("mismatched_ids") == SequenceColumns(
        "mismatched_ids", "mismatched_mask", "mismatched_lengths", "mismatched"
    )


def test_algorithms_read_the_columns_that_are_named_so() -> None:
    texts = {one.ids: (one.text, one.lengths) for one in (*dpo.DPO.sequences, *kto.KTO.sequences, *sft.SFT.sequences)}
    assert texts == {
        "chosen_ids": ("chosen", "chosen_lengths"),
        "rejected_ids": ("rejected", "rejected_lengths"),
        "input_ids": ("", "lengths"),
        "mismatched_ids": ("mismatched", "mismatched_lengths"),
    }


def test_ids_are_known_by_their_type() -> None:
    assert set(id_columns(PACKED_PAIRS)) == set(token_columns(PACKED_PAIRS)) >= {"chosen_ids", "rejected_ids"}
