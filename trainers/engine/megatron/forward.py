"""The one forward pass: a network over packed rows, and what its output says of every sequence column.

Training, scoring and the columns that frozen models write all go through here, so that a reference log-probability is
computed by the very code that computes the trained one. Legend: t tokens of the micro-batch, T predicted tokens of one
sequence column, B rows, V this rank's part of the vocabulary, H outputs of the scalar head.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trainers.algorithm import ModelOutputs, Needs
from trainers.engine.data.batch import MicroBatch
from trainers.engine.megatron import logprobs


def forward(model: Any, batch: MicroBatch) -> Tensor:
    """Run the network over a micro-batch: [1, t, V] logits or [1, t, H] scalars; hidden states before the last
    stage.
    """
    options = {"packed_seq_params": batch.plan, "padding_mask": batch.padding_1t}
    output: Tensor = model(batch.tokens_1t, batch.plan.positions, None, **options)
    return output


def extract_outputs(output: Tensor, batch: MicroBatch, needs: Needs, vocab_size: int) -> dict[str, ModelOutputs]:
    """What the output of `forward` on the last pipeline stage tells of every sequence column; uses logits up."""
    if not needs.scalar:
        logprobs.hide_padding(output, vocab_size)
    logprobs_t = None
    if (
        Needs.LOGPROBS in needs
    ):  # of all columns in one call, which overwrites the logits: no slice of them is read after
        logits_tV = output[0] if needs == Needs.LOGPROBS else output[0].clone()
        logprobs_t = logprobs.token_logprobs(logits_tV, batch.labels_1t[0])
    return {
        name: ModelOutputs(span.row_T, batch.num_rows, _answers(output[0], logprobs_t, batch, name, needs))
        for name, span in batch.spans.items()
    }


def _answers(
    output_t: Tensor, logprobs_t: Tensor | None, batch: MicroBatch, name: str, needs: Needs
) -> dict[Needs, Tensor]:
    span = batch.spans[name]
    here = output_t if span.start == 0 and span.stop == len(output_t) else output_t[span.start : span.stop]
    answers: dict[Needs, Tensor] = {}
    if Needs.SCORES in needs:
        answers[Needs.SCORES] = output_t[span.last_B]
    if Needs.VALUES in needs:
        answers[Needs.VALUES] = here
    for gathered, read_at in ((Needs.GATHERED, logprobs.logprobs_at), (Needs.GATHERED_LOGITS, logprobs.logits_at)):
        if gathered in needs:
            assert span.gather_ids_TK is not None, f"{name} has no column of ids to gather"
            answers[gathered] = read_at(here, span.gather_ids_TK)
    if Needs.RANKED_LOGITS in needs:
        answers[Needs.RANKED_LOGITS] = logprobs.largest_logits(here, span.ranks)
    if Needs.ENTROPY in needs:
        answers[Needs.ENTROPY] = logprobs.entropy(here)
    if logprobs_t is not None:
        answers[Needs.LOGPROBS] = logprobs_t[span.start : span.stop]
    return answers
