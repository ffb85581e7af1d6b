"""One network over several processes, asked for answers: from pipeline stage to stage, and from the last one to all.

Training leaves this to Megatron's schedules. Here all processes of a network read the same rows at the same time, each
with its stage and its slice; hidden states travel down the stages, and what the last one finds is sent to all, so that
every process goes on with the very same numbers. Processes that share experts are of one network, too.

Tensor suffixes: s sequence, b batch, h hidden size.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from trainers.engine.megatron.model import Network


def through(network: Network, forward: Callable[[], Tensor], length: int, rows: int = 1) -> Tensor | None:
    """What `forward` gives on the last stage, None on others; it reads [length, rows] tokens, here as on any stage."""
    layout, group = network.layout, parallel_state.get_pipeline_model_parallel_group()
    assert not layout.sequence, "hidden states are whole in inference"
    if not layout.first:
        like = next(network.parameters())
        hidden_sbh = torch.empty(length, rows, network.config.hidden_size, dtype=like.dtype, device=like.device)
        dist.recv(hidden_sbh, parallel_state.get_pipeline_model_parallel_prev_rank(), group=group)
        network.set_input_tensor(hidden_sbh)
    output = forward()
    if layout.last:
        return output
    dist.send(output.contiguous(), parallel_state.get_pipeline_model_parallel_next_rank(), group=group)
    return None


def share(network: Network, values: Tensor) -> None:
    """Overwrite `values` with those of the last stage, on every process of the network."""
    layout = network.layout
    stage = layout.tensor * layout.data
    if layout.expert > 1:
        dist.broadcast(values, src=stage * (layout.pipeline - 1))
    elif layout.tensor * layout.pipeline > 1:
        source = layout.tensor * layout.data_rank + stage * (layout.pipeline - 1)
        dist.broadcast(values, src=source, group=parallel_state.get_model_parallel_group())
