"""One step: micro-batches through the network, the algorithm's loss, gradients divided by the global weight.

`Stepper` runs the one forward pass (`trainers.engine.megatron.forward`) under Megatron's schedules (pipeline or not),
adds up sums and weights of the loss and its metrics, and reduces them over the world once per step. Gradients are
added up unscaled and divided by the global weight at the end, so no cut of the batch changes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from collections.abc import Sequence as Many
from functools import partial
from typing import Any

import numpy as np
import torch
from megatron.core.distributed import finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.utils import get_model_config
from torch import Tensor

from trainers.algorithm import Algorithm, Loss, ModelOutputs
from trainers.architecture import ModelConfig
from trainers.engine.data.batch import MicroBatch
from trainers.engine.megatron import mixture
from trainers.engine.megatron.forward import extract_outputs, forward
from trainers.engine.megatron.parallel import Layout
from trainers.engine.megatron.specs import choose
from trainers.engine.reporting.results import StepResult
from trainers.engine.training.step_sums import WEIGHT, StepSums
from trainers.launch import rank


class Stepper:
    """Forward and backward over the micro-batches of a step, for one network and one algorithm."""

    def __init__(self, model: Any, shape: ModelConfig, algorithm: Algorithm, settings: Any, layout: Layout) -> None:
        self.model, self.shape, self.layout = model, shape, layout
        self.algorithm, self.settings = algorithm, settings
        self.stop_asked: Callable[[], bool] = lambda: False
        self.config = get_model_config(model)
        assert self.config.calculate_per_token_loss, "gradients must come unscaled"
        self.config.finalize_model_grads_func = self._finalize
        self._run = get_forward_backward_func()
        self._sums = StepSums("cpu")
        self._bucketed = choose("auto") == "local"
        self._statistics: dict[str, Tensor] = {}

    def train(self, batches: Many[MicroBatch], *, sources: int = 0, rows: int = 0) -> StepResult:
        """Leave the gradient of the global mean loss in the model; `sources` and `rows`: how many are distinguished."""
        self._gather_statistics(batches)
        if self.shape.experts is not None and self.shape.experts.balance > 0:
            mixture.weigh(self.model, batches, self.algorithm)
        self._sums = self._started(sources, rows)
        self._forward(batches, self._loss, forward_only=False)
        return self._result()

    @torch.no_grad()
    def evaluate(self, steps: Iterator[Many[MicroBatch]], *, sources: int = 0) -> StepResult:
        """The mean loss and metrics over all micro-batches of all `steps`, without gradients."""
        self._sums = sums = self._started(sources)
        for batches in steps:
            self._gather_statistics(batches)
            self._sums = sums
            rank.heartbeat()
            self._forward(batches, self._loss, forward_only=True)
        self._reduce()
        return self._result()

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
        return forward(model, batch), partial(loss, batch)

    def _outputs(self, output: Tensor, batch: MicroBatch) -> dict[str, ModelOutputs]:
        return extract_outputs(output, batch, self.algorithm.needs, self.shape.vocab_size)

    def _loss(self, batch: MicroBatch, output: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        outputs = self._outputs(output, batch)
        loss: Loss = self.algorithm.loss(self.settings, outputs, {**batch.rows, **self._statistics})
        assert loss.values.shape == loss.weights.shape, f"{tuple(loss.values.shape)} != {tuple(loss.weights.shape)}"
        assert tuple(loss.metrics) == self.algorithm.metrics, f"{tuple(loss.metrics)} != {self.algorithm.metrics}"
        assert tuple(loss.row_metrics) == self.algorithm.row_metrics, (
            f"{tuple(loss.row_metrics)} != {self.algorithm.row_metrics}"
        )
        total = (loss.values * loss.weights).sum()
        pairs = [number for pair in loss.metrics.values() for number in pair]
        self._sums.add(total, loss.weights.sum(), pairs)
        self._sums.count(batch.num_read, self._padded_tokens(batch), self._pairs(batch))
        first = outputs[self.algorithm.sequences[0].ids]
        self._sums.add_rows(loss, self.algorithm.per, first, batch.places_B, batch.sources_B)
        return total, torch.zeros((), dtype=torch.int, device=output.device), {}

    def _gather_statistics(self, batches: Many[MicroBatch]) -> None:
        """The algorithm's numbers over the global batch, from a pass without gradient."""
        statistics_of = self.algorithm.statistics_of
        if statistics_of is None:
            return

        def collect(batch: MicroBatch, output: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
            statistics = statistics_of(self.settings, self._outputs(output, batch), batch.rows)
            pairs = [number for name in self.algorithm.statistics for number in statistics[name]]
            self._sums.add(output.new_zeros(()), output.new_zeros(()), pairs)
            return output.sum() * 0, torch.zeros((), dtype=torch.int, device=output.device), {}

        self._sums = StepSums(self.layout.device, metrics=len(self.algorithm.statistics))
        with torch.no_grad():
            self._forward([batch.statistics or batch for batch in batches], collect, forward_only=True)
        self._reduce()
        means = self._means(self.algorithm.statistics)
        self._statistics = {n: torch.tensor(v, device=self.layout.device) for n, v in means.items()}

    def _started(self, sources: int, rows: int = 0) -> StepSums:
        sizes = {"metrics": len(self.algorithm.metrics), "row_metrics": len(self.algorithm.row_metrics)}
        return StepSums(self.layout.device, sources=sources, rows=rows, **sizes)

    def _padded_tokens(self, batch: MicroBatch) -> int:
        """Places that attention computes: those of its buckets; Transformer Engine's kernels have none to spare."""
        if not self._bucketed:
            return batch.num_tokens
        return sum(bucket.count * bucket.length for bucket in batch.plan.buckets)

    def _pairs(self, batch: MicroBatch) -> float:
        lengths = np.asarray(batch.read_lengths, dtype=np.float64)
        return float((lengths * np.minimum(lengths, self.shape.window or np.inf)).sum())

    def _finalize(self, model: list[Any], num_tokens: Tensor | None, **groups: Any) -> None:
        """Megatron's hook between the last backward and the optimizer: reduce, then divide by the global weight."""
        rank.heartbeat()  # from here on this rank waits for the others
        finalize_model_grads(model, None, **groups)
        self._reduce()
        weight = float(self._sums.head[WEIGHT])
        for chunk in model:
            chunk.scale_gradients(1.0 / weight if weight > 0 else 0.0)

    def _reduce(self) -> None:
        """Sum over the world; one rank of each tensor group on the last stage speaks, anyone may ask to stop."""
        speaks = self.layout.last and self.layout.tensor_rank == 0
        self._sums.reduce(speaks=speaks, stop=self.stop_asked(), world=self.layout.world)

    def _means(self, names: tuple[str, ...]) -> dict[str, float]:
        pairs = zip(names, self._sums.metrics_M2.tolist(), strict=True)
        return {name: total / count for name, (total, count) in pairs if count > 0}

    def _result(self) -> StepResult:
        total, weight, tokens, padded_tokens, pairs = self._sums.head.tolist()
        by_source = enumerate(self._sums.sources_S2.tolist())
        return StepResult(
            loss=total / weight if weight > 0 else total,
            weight=weight,
            metrics=self._means(self.algorithm.metrics),
            tokens=int(tokens),
            padded_tokens=int(padded_tokens),
            pairs=pairs,
            sources={place: loss / counted for place, (loss, counted) in by_source if counted > 0},
            rows_RN=self._sums.rows_RN.cpu().numpy(),
            stop=float(self._sums.stop) > 0,
        )
