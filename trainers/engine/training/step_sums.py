"""What a step adds up over the world, in one float64 vector: one collective per step, however much is asked.

Legend: M metrics, S sources, R rows of the step (over all replicas), N row metrics of the algorithm.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from trainers.algorithm import Loss, ModelOutputs, Per
from trainers.arithmetic import sum_per_row

LOSS, WEIGHT, TOKENS, PADDED_TOKENS, PAIRS = range(5)
"""Entries of `StepSums.head`: sums of the loss and its weight, tokens read, tokens with padding, and pairs
of tokens (query, key) within the window."""


class StepSums:
    """Sums of one step; its parts are views of `all`.

    `head` [5] and `stop` (requests to stop); `metrics_M2` sums and counts; `sources_S2` sums and weights of every
    source; `rows_RN` sums and weights of every row, then the algorithm's row metrics.
    """

    def __init__(
        self, device: torch.device | str, *, metrics: int = 0, sources: int = 0, rows: int = 0, row_metrics: int = 0
    ) -> None:
        sizes = (5, 2 * metrics, 2 * sources, rows * (2 + row_metrics), 1)
        self.all = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
        head, pairs, by_source, by_row, stop = self.all.split(sizes)
        self.head, self.stop = head, stop
        self.metrics_M2, self.sources_S2 = pairs.view(-1, 2), by_source.view(-1, 2)
        self.rows_RN = by_row.view(rows, 2 + row_metrics)
        self._counts = [0.0, 0.0, 0.0]

    @torch.no_grad()
    def add(self, total: Tensor, weight: Tensor, pairs: list[Tensor]) -> None:
        """Loss, weight and (sum, count, sum, count, ...) of the metrics of one micro-batch; waits for no device."""
        numbers = torch.stack([number.detach().double() for number in (total, weight, *pairs)])
        self.head[:TOKENS] += numbers[:TOKENS]
        self.metrics_M2 += numbers[TOKENS:].view(-1, 2)

    def count(self, tokens: int, padded_tokens: int, pairs: float) -> None:
        """What one micro-batch read, which the host knows."""
        self._counts = [one + other for one, other in zip(self._counts, (tokens, padded_tokens, pairs), strict=True)]

    @torch.no_grad()
    def add_rows(self, loss: Loss, per: Per, outputs: ModelOutputs, places_B: Tensor, sources_B: Tensor) -> None:
        """The rows of one micro-batch, where they stand among the step's rows and in their sources."""
        of_rows, of_sources = self.rows_RN.numel() > 0, self.sources_S2.numel() > 0 and sources_B.numel() > 0
        if not (of_rows or of_sources) or not outputs.num_rows:
            return
        weights = loss.weights.double()
        both = [loss.values.double() * weights, weights]
        if per is Per.TOKEN:
            both = [sum_per_row(values_T, outputs.row_T, outputs.num_rows) for values_T in both]
        if of_sources:
            self.sources_S2.index_add_(0, sources_B, torch.stack(both, dim=1))
        if of_rows:
            row_metrics = [values_B.double() for values_B in loss.row_metrics.values()]
            self.rows_RN[places_B] = torch.stack([*both, *row_metrics], dim=1)

    def reduce(self, *, speaks: bool, stop: bool, world: int) -> None:
        """Sum over the world: only ranks that speak bring their sums, anyone may ask to stop."""
        self.head[TOKENS:] = torch.tensor(self._counts, dtype=torch.float64)
        if not speaks:
            self.all.zero_()
        self.stop.fill_(float(stop))
        if world > 1:
            dist.all_reduce(self.all)
