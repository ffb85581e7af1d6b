"""One step: micro-batches through the network, the algorithm's loss, gradients divided by the global weight.

`say` and `hear` are the forward pass and what it means to an algorithm; scoring shares them with training, so that a
column of log-probs comes from the very same forward. `Stepper` runs them under Megatron's schedules (pipeline or not),
adds up sums and weights of the loss and its metrics, and reduces them over the world once per step. Gradients are added
up unscaled and divided by the global weight at the end, so no cut of the batch changes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.utils import get_model_config
from torch import Tensor

from trainers.algorithm import Algorithm, Loss, Needs, Said
from trainers.engine import logprobs
from trainers.engine.batch import MicroBatch
from trainers.engine.packing import pack
from trainers.engine.parallel import Layout


@dataclass(frozen=True)
class Outcome:
    """A step over the global batch: the mean loss, its weight, the metrics' means, and whether someone asked to
    stop.
    """

    loss: float
    weight: float
    metrics: Mapping[str, float]
    tokens: int
    stop: bool


def say(model: Any, batch: MicroBatch) -> Tensor:
    """Run the network over a micro-batch: [1, t, V] logits or [1, t, H] scalars; hidden states before the last
    stage.
    """
    plan = pack(batch.lengths, batch.tokens_1t.device)
    output: Tensor = model(batch.tokens_1t, plan.positions, None, packed_seq_params=plan)
    return output


def hear(output: Tensor, batch: MicroBatch, needs: Needs, vocab_size: int) -> dict[str, Said]:
    """What the output of `say` on the last pipeline stage tells of every sequence column; uses logits up."""
    if not needs.scalar:
        logprobs.hide_padding(output, vocab_size)
    return {
        name: Said(span.row_T, batch.num_rows, _answers(output[0], batch, name, needs))
        for name, span in batch.spans.items()
    }


def _answers(output_t: Tensor, batch: MicroBatch, name: str, needs: Needs) -> dict[Needs, Tensor]:
    span = batch.spans[name]
    here = output_t if span.start == 0 and span.stop == len(output_t) else output_t[span.start : span.stop]
    answers: dict[Needs, Tensor] = {}
    if Needs.SCORES in needs:
        answers[Needs.SCORES] = output_t[span.last_B]
    if Needs.VALUES in needs:
        answers[Needs.VALUES] = here
    if Needs.CHOICES in needs:
        assert span.choices_TK is not None, f"{name} has no column of choices"
        answers[Needs.CHOICES] = logprobs.logprobs_at(here, span.choices_TK)
    if Needs.ENTROPY in needs:
        answers[Needs.ENTROPY] = logprobs.entropy(here)
    if Needs.LOGPROBS in needs:
        labels_T, alone = batch.labels_1t[0, span.start : span.stop], needs == Needs.LOGPROBS
        answers[Needs.LOGPROBS] = logprobs.token_logprobs(here if alone else here.clone(), labels_T)
    return answers


class Stepper:
    """Forward and backward over the micro-batches of a step, for one network and one algorithm."""

    def __init__(self, model: Any, vocab_size: int, algorithm: Algorithm, settings: Any, layout: Layout) -> None:
        self.model, self.vocab_size, self.layout = model, vocab_size, layout
        self.algorithm, self.settings = algorithm, settings
        self.stop_asked: Callable[[], bool] = lambda: False
        self.config = get_model_config(model)
        assert self.config.calculate_per_token_loss, "gradients must come unscaled"
        self.config.finalize_model_grads_func = self._finalize
        self._run = get_forward_backward_func()
        self._sums = torch.zeros(0)
        self._statistics: dict[str, Tensor] = {}

    def train(self, batches: Many[MicroBatch]) -> Outcome:
        """Leave the gradient of the global mean loss in the model."""
        self._gather_statistics(batches)
        self._start(len(self.algorithm.metrics))
        self._forward(batches, self._loss, forward_only=False)
        return self._outcome()

    @torch.no_grad()
    def evaluate(self, steps: Iterator[Many[MicroBatch]]) -> Outcome:
        """The mean loss and metrics over all micro-batches of all `steps`, without gradients."""
        self._start(len(self.algorithm.metrics))
        for batches in steps:
            sums = self._sums
            self._gather_statistics(batches)
            self._sums = sums
            self._forward(batches, self._loss, forward_only=True)
        self._reduce()
        return self._outcome()

    def _forward(self, batches: Many[MicroBatch], loss: Callable[..., Any], *, forward_only: bool) -> None:
        moved = (batch.to(self.layout.device) for batch in batches)
        length = max(batch.num_tokens for batch in batches)
        self._run(
            forward_step_func=partial(self._one, loss),
            data_iterator=moved,
            model=[self.model],
            num_microbatches=len(batches),
            seq_length=length,
            micro_batch_size=1,
            forward_only=forward_only,
        )

    def _one(self, loss: Callable[..., Any], batches: Iterator[MicroBatch], model: Any) -> tuple[Tensor, Any]:
        batch = next(batches)
        return say(model, batch), partial(loss, batch)

    def _hear(self, output: Tensor, batch: MicroBatch) -> dict[str, Said]:
        return hear(output, batch, self.algorithm.needs, self.vocab_size)

    def _loss(self, batch: MicroBatch, output: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        said = self._hear(output, batch)
        loss: Loss = self.algorithm.loss(self.settings, said, {**batch.rows, **self._statistics})
        assert loss.values.shape == loss.weights.shape, f"{tuple(loss.values.shape)} != {tuple(loss.weights.shape)}"
        assert tuple(loss.metrics) == self.algorithm.metrics, f"{tuple(loss.metrics)} != {self.algorithm.metrics}"
        total = (loss.values * loss.weights).sum()
        pairs = [number for pair in loss.metrics.values() for number in pair]
        self._add(total, loss.weights.sum(), torch.tensor(batch.num_read, device=output.device), *pairs)
        return total, torch.zeros((), dtype=torch.int, device=output.device), {}

    def _gather_statistics(self, batches: Many[MicroBatch]) -> None:
        """The algorithm's numbers over the global batch, from a pass without gradient."""
        statistics_of = self.algorithm.statistics_of
        if statistics_of is None:
            return

        def collect(batch: MicroBatch, output: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            found = statistics_of(self.settings, self._hear(output, batch), batch.rows)
            pairs = [number for name in self.algorithm.statistics for number in found[name]]
            self._add(*[output.new_zeros(())] * 3, *pairs)
            return output.sum() * 0, torch.zeros((), dtype=torch.int, device=output.device), {}

        self._start(len(self.algorithm.statistics))
        with torch.no_grad():
            self._forward(batches, collect, forward_only=True)
        self._reduce()
        means = self._means(self.algorithm.statistics)
        self._statistics = {n: torch.tensor(v, device=self.layout.device) for n, v in means.items()}

    def _start(self, pairs: int) -> None:
        """Begin new sums: of the loss, its weights and the tokens, then of `pairs` (sum, count), then stop requests."""
        self._sums = torch.zeros(3 + 2 * pairs + 1, dtype=torch.float64, device=self.layout.device)

    @torch.no_grad()
    def _add(self, *numbers: Tensor) -> None:
        self._sums[:-1] += torch.stack([number.detach().double() for number in numbers])

    def _finalize(self, model: list[Any], num_tokens: Tensor | None, **groups: Any) -> None:
        """Megatron's hook between the last backward and the optimizer: reduce, then divide by the global weight."""
        finalize_model_grads(model, None, **groups)
        self._reduce()
        weight = float(self._sums[1])
        for chunk in model:
            chunk.scale_gradients(1.0 / weight if weight > 0 else 0.0)

    def _reduce(self) -> None:
        """Sum over the world; one rank of each tensor group on the last stage speaks, anyone may ask to stop."""
        if not (self.layout.last and self.layout.tensor_rank == 0):
            self._sums.zero_()
        self._sums[-1] = float(self.stop_asked())
        if self.layout.world > 1:
            dist.all_reduce(self._sums)

    def _means(self, names: tuple[str, ...]) -> dict[str, float]:
        numbers = self._sums[3:-1].tolist()
        pairs = zip(names, numbers[::2], numbers[1::2], strict=True)
        return {name: total / count for name, total, count in pairs if count > 0}

    def _outcome(self) -> Outcome:
        total, weight, tokens, *_, stop = self._sums.tolist()
        loss = total / weight if weight > 0 else total
        return Outcome(loss, weight, self._means(self.algorithm.metrics), int(tokens), stop > 0)
