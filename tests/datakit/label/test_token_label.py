"""Operations that ask a model about given tokens: what their base promises holds for each of them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datakit.clients.token_label import TokenLabel
from datakit.op import Context, Label
from datakit.registry import OPS
from schemas.errors import DataError

KINDS = [kind for kind in OPS.values() if "model" in kind.needs and issubclass(kind, Label)]


def test_all_that_ask_about_tokens_stand_on_one_base() -> None:
    assert {kind.name for kind in KINDS} >= {"label.divergence", "label.logprobs", "label.topk", "label.values"}
    assert all(issubclass(kind, TokenLabel) and kind.paid and kind.max_rejected == 0 for kind in KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_packs_are_refused_before_a_model_reads_across_their_borders(kind: type[TokenLabel]) -> None:
    packs = pa.table({"input_ids": [[5, 6, 7]], "loss_mask": [[1, 1, 1]], "lengths": [[2, 1]]})
    with pytest.raises(DataError) as fault:
        kind().label(packs, Context(resources={"model": None}))
    assert fault.value.slug == "packed-rows" and kind.name in str(fault.value)
