"""The optimizer's state in a checkpoint: its tensors, named after the weights they belong to, and one step number.

Megatron stores beside them how the optimizer was put together, which differs between its plain and its distributed
optimizer and with the number of expert groups. That part is left out: the running optimizer knows it. So one format
serves both kinds and every layout. `exp_avg` and `exp_avg_sq` are always there, `fp32_param` (the master weights) in
bf16; in fp32 the weights are their own masters.

The load path of Megatron-Core 0.16's distributed optimizer is written for fused Adam kernels; over torch's AdamW it
needs three repairs: states must exist before they are described, "step" is no tensor to copy, and the one loaded step
tensor must not be shared by all parameters (each would advance it, silently).
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.dist_checkpointing.mapping import ShardedBase
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
    parts = _parts(optimizer)
    steps = {step for part in parts for step in _steps(part)}
    assert len(steps) <= 1, f"parameters were stepped unlike: {steps}"
    described = {str(number): _described(part, tensors, loading=False) for number, part in enumerate(parts)}
    return {"parts": described, "step": max(steps, default=0)}


def load(optimizer: Any, tensors: Mapping[str, Any], read: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Fill `optimizer`, whose network has its weights already; `read` takes a request of sharded tensors and returns
    it filled.
    """
    parts = _parts(optimizer)
    for part in parts:
        if isinstance(part, DistributedOptimizer):
            _make_states(part)
            _leave_steps_out(part)
    request = {str(number): _described(part, tensors, loading=True) for number, part in enumerate(parts)}
    state = read({"model": {"parts": request}})["model"]
    for number, part in enumerate(parts):
        part.load_state_dict(_put_together(part, state["parts"][str(number)], int(state["step"])))
        _part_steps(part)


def _parts(optimizer: Any) -> list[Any]:
    parts = list(getattr(optimizer, "chained_optimizers", [optimizer]))
    return [part for part in parts if not getattr(part, "is_stub_optimizer", False)]


def _steps(part: Any) -> list[int]:
    """The steps made: torch keeps them per parameter, fused kernels per group."""
    of_parameters = [int(state["step"]) for state in part.optimizer.state.values() if "step" in state]
    return of_parameters or [int(group["step"]) for group in part.optimizer.param_groups if "step" in group]


def _described(part: Any, tensors: Mapping[str, Any], *, loading: bool) -> dict[str, Any]:
    """The sharded tensors of one optimizer: `state` by parameter, `masters` by group where they are apart."""
    sharded = part.sharded_state_dict(dict(tensors), is_loading=loading, metadata=metadata())
    if isinstance(part, DistributedOptimizer):
        return {"state": {number: _renamed(entry, part) for number, entry in sharded["param_state"].items()}}
    state = sharded.get("optimizer", sharded)["state"]
    described = {"state": {number: _sharded(entry) for number, entry in state.items() if isinstance(entry, dict)}}
    return described | ({"masters": sharded["fp32_from_fp16_params"]} if "fp32_from_fp16_params" in sharded else {})


def _sharded(entry: Mapping[str, Any]) -> dict[str, ShardedBase]:
    return {name: tensor for name, tensor in entry.items() if isinstance(tensor, ShardedBase)}


def _renamed(entry: Mapping[str, Any], part: DistributedOptimizer) -> dict[str, ShardedBase]:
    """The distributed optimizer's tensors of one parameter under the plain one's names."""
    named = _sharded(entry)
    master = named.pop("param")
    if part.config.bf16:
        master.key = master.key.replace("optimizer.state.param.", "optimizer.state.fp32_param.", 1)
        named["fp32_param"] = master
    return named


def _put_together(part: Any, loaded: Mapping[str, Any], step: int) -> dict[str, Any]:
    """What `part.load_state_dict` takes, with the groups as they are configured now."""
    groups = part.optimizer.state_dict()["param_groups"]
    if isinstance(part, DistributedOptimizer):
        bare = [{name: value for name, value in group.items() if name != "params"} | {"step": step} for group in groups]
        state = {"param_state": loaded["state"], "param_state_sharding_type": "fully_reshardable"}
        return {"optimizer": {"param_groups": bare}, **state}
    if any("step" in group for group in groups):
        inner = {"state": loaded["state"], "param_groups": [group | {"step": step} for group in groups]}
    else:
        inner = {"state": {**loaded["state"], "common_step": torch.tensor(float(step))}, "param_groups": groups}
    return {"optimizer": inner, "fp32_from_fp16_params": loaded["masters"]} if "masters" in loaded else inner


def _make_states(part: DistributedOptimizer) -> None:
    """Let the optimizer make its states by a step that changes nothing."""
    rates = [group["lr"] for group in part.optimizer.param_groups]
    for group in part.optimizer.param_groups:
        group["lr"] = 0.0
    part._init_optimizer_states_with_dummy_values()
    for group, rate in zip(part.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def _leave_steps_out(part: DistributedOptimizer) -> None:
    part._set_main_param_and_optimizer_states = types.MethodType(_copy_states, part)


def _part_steps(part: Any) -> None:
    for state in part.optimizer.state.values():
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].clone()


def _copy_states(self: DistributedOptimizer, model_param: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    group, order = self.model_param_group_index_map[model_param]
    main = self.optimizer.param_groups[group]["params"][order]
    for name, state in {"param": main, **self.optimizer.state[main]}.items():
        if name in tensors:
            state.copy_(tensors[name])
