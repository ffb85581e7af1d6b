"""The optimizer's state in a checkpoint, and what Megatron-Core 0.16 needs to get it back.

The distributed optimizer's load path is written for fused Adam kernels; over torch's AdamW it needs four
repairs: states must exist before they are described, "step" is no tensor to copy, copies into leaves need
`no_grad`, and the one loaded step tensor must not be shared by all parameters (each would advance it,
silently).
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer


def metadata() -> dict[str, Any]:
    """How Megatron is to lay out optimizer state: so that any layout can read it."""
    return {
        "distrib_optim_sharding_type": "fully_reshardable",
        "dp_cp_group": parallel_state.get_data_parallel_group(with_context_parallel=True),
        "singleton_local_shards": False,
        "chained_optim_avoid_prefix": True,
    }


def to_save(optimizer: Any, tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The state as sharded tensors; `tensors` are the network's own."""
    state: dict[str, Any] = optimizer.sharded_state_dict(dict(tensors), is_loading=False, metadata=metadata())
    return state


def load(optimizer: Any, tensors: Mapping[str, Any], read: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Fill `optimizer`; `read` takes a request of sharded tensors and returns it filled."""
    inner = [part for part in _parts(optimizer) if isinstance(part, DistributedOptimizer)]
    for part in inner:
        part._init_optimizer_states_with_dummy_values()
        part._set_main_param_and_optimizer_states = types.MethodType(_copy_states, part)
    request = optimizer.sharded_state_dict(dict(tensors), is_loading=True, metadata=metadata())
    optimizer.load_state_dict(read({"model": request})["model"])
    for part in inner:
        for state in part.optimizer.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"] = state["step"].clone()


def _parts(optimizer: Any) -> list[Any]:
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


@torch.no_grad()
def _copy_states(self: DistributedOptimizer, model_param: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    group, order = self.model_param_group_index_map[model_param]
    main = self.optimizer.param_groups[group]["params"][order]
    main.copy_(tensors["param"])
    for name, state in self.optimizer.state[main].items():
        if name in tensors and name != "step":
            state.copy_(tensors[name])
