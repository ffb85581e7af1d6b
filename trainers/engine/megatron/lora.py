"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) on Megatron's linears: W x + (alpha / rank) B A x.

`attach` freezes a network and gives every target linear an adapter, whose output a forward hook adds; the linears keep
their names. An adapter is cut as its linear is. Column parallel: A whole on every rank, B cut along the output; row
parallel: A cut along the input, B whole. What crosses the tensor group is A x, of `rank` numbers per token, gathered or
scattered along the sequence as the linear does. A is drawn whole by (seed, name) and then cut, B starts at zero, so an
adapted network starts as its base at every layout. A scalar head is trained with the adapters. `fold` adds the
adapters to the weights, which needs no communication, and leaves an ordinary network.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state, tensor_parallel
from megatron.core.transformer.mlp import apply_swiglu_sharded_factory
from megatron.core.transformer.utils import make_sharded_tensors_for_checkpoint
from torch import Tensor

from schemas.errors import ConfigError
from schemas.manifest import Parent
from trainers.config import Lora
from trainers.engine.megatron.lora_dropout import Dropout
from trainers.engine.megatron.model import Network, ScalarHead

COLUMN = ("linear_qkv", "linear_fc1")
"""The linears that tensor parallelism cuts along their output; it cuts the others along their input."""

_PARTS = {"self_attention": ("linear_qkv", "linear_proj"), "mlp": ("linear_fc1", "linear_fc2")}


class Adapter(torch.nn.Module):
    """A and B of one linear: `a` [rank, in], `b` [out, rank], cut as the linear `name` of the whole network is."""

    def __init__(self, linear: Any, name: str, lora: Lora, network: Network, dropout: Dropout) -> None:
        super().__init__()
        outputs, inputs = linear.weight.shape
        options = {"dtype": linear.weight.dtype, "device": linear.weight.device}
        self.name, self.layout, self.dropout = name, network.layout, dropout
        self.column, self.scale = name.endswith(COLUMN), lora.alpha / lora.rank
        self.gated = name.endswith("linear_fc1") and network.architecture.gated
        self.norm = (network.architecture.normalization, network.architecture.norm_epsilon)
        self.a = torch.nn.Parameter(torch.zeros(lora.rank, inputs, **options))
        self.b = torch.nn.Parameter(torch.zeros(outputs, lora.rank, **options))
        self._mark(self.a, None if self.column else 1)
        self._mark(self.b, 0 if self.column else None)

    def _mark(self, parameter: Any, cut: int | None) -> None:
        """What Megatron's gradient sums and norm ask: the dimension that is cut, or a whole over a cut sequence."""
        parameter.tensor_model_parallel = cut is not None
        parameter.partition_dim, parameter.partition_stride = -1 if cut is None else cut, 1
        parameter.sequence_parallel = cut is None and self.layout.sequence

    def draw(self, seed: int) -> None:
        """A uniform in +-1 / sqrt(in) (He et al. 2015, as PEFT starts it), B zero."""
        tensor, rank = (1, 0) if self.column else (self.layout.tensor, self.layout.tensor_rank)
        inputs = self.a.shape[1] * tensor
        number = int.from_bytes(hashlib.sha256(f"{seed}/{self.name}.lora.a".encode()).digest()[:8], "big") >> 1
        whole = torch.empty(self.a.shape[0], inputs)
        whole.uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs), generator=torch.Generator().manual_seed(number))
        with torch.no_grad():
            self.a.copy_(whole.chunk(tensor, dim=1)[rank])
            self.b.zero_()

    def add(self, linear: Any, arguments: tuple[Any, ...], output: tuple[Tensor, Any]) -> tuple[Tensor, Any]:
        """Forward hook of the linear: its output plus the adapter's; its bias as it is."""
        return output[0] + self(self._read(linear, arguments[0])), output[1]

    def forward(self, x: Tensor) -> Tensor:
        """(alpha / rank) B A x, cut as the linear's output is."""
        z = F.linear(self._dropped(x), self.a)
        sequence = self.layout.sequence
        if self.column:
            gather = tensor_parallel.gather_from_sequence_parallel_region
            z = gather(z) if sequence else tensor_parallel.copy_to_tensor_model_parallel_region(z)
        else:
            scatter = tensor_parallel.reduce_scatter_to_sequence_parallel_region
            z = scatter(z) if sequence else tensor_parallel.reduce_from_tensor_model_parallel_region(z)
        return F.linear(z * self.scale, self.b)

    def delta(self) -> Tensor:
        """What the adapter adds to this rank's slice of the weight, (alpha / rank) B A in fp32."""
        return self.scale * (self.b.detach().float() @ self.a.detach().float())

    def tensors(self) -> dict[str, Any]:
        """`a` and `b` as Megatron saves them, whole by name at every layout; gate and up are cut one by one."""
        sharded: dict[str, Any] = make_sharded_tensors_for_checkpoint(
            {"a": self.a, "b": self.b},
            f"{self.name}.lora.",
            {"b": 0} if self.column else {"a": 1},
            tp_group=parallel_state.get_tensor_model_parallel_group(),
            dp_cp_group=parallel_state.get_data_parallel_group(with_context_parallel=True),
        )
        a, b = sharded.values()
        return {"a": a, "b": apply_swiglu_sharded_factory(b, ()) if self.gated else b}

    def _dropped(self, x: Tensor) -> Tensor:
        if not (self.training and self.dropout.rate):
            return x
        rank = self.layout.tensor_rank
        token = rank * x.shape[0] if self.column and self.layout.sequence else 0
        return self.dropout.drop(x, self.name, token, 0 if self.column else rank * x.shape[-1])

    def _read(self, linear: Any, x: Tensor) -> Tensor:
        """What the weight is multiplied with: Transformer Engine's linears may hold the norm before them."""
        weight = getattr(linear, "layer_norm_weight", None)
        if weight is None:
            return x
        (kind, epsilon), bias = self.norm, getattr(linear, "layer_norm_bias", None)
        if getattr(linear, "zero_centered_gamma", False):
            weight = weight + 1
        if kind == "RMSNorm":
            return F.rms_norm(x, weight.shape, weight, epsilon)
        return F.layer_norm(x, weight.shape, weight, bias, epsilon)


@dataclass(frozen=True)
class Adaptation:
    """What was done to a network: the settings, the base by the digest of its weights and by where it is, and hooks."""

    lora: Lora
    base: str
    parent: Parent
    dropout: Dropout
    hooks: tuple[Any, ...]


def of(network: Network) -> Adaptation | None:
    """The adaptation of `network`, None for an ordinary one."""
    adaptation: Adaptation | None = getattr(network, "adaptation", None)
    return adaptation


def attach(network: Network, lora: Lora, *, base: str, parent: Parent, seed: int) -> None:
    """Freeze `network` and put adapters on it, drawn from `seed`; `base`, `parent`: the checkpoint its weights are of.

    `ConfigError` where a target is the linear of experts.
    """
    check_targets(lora, experts=network.architecture.experts is not None)
    network.requires_grad_(False)
    dropout = Dropout(lora.dropout, seed)
    hooks = [network.register_forward_pre_hook(dropout.before_network, with_kwargs=True)]
    for _, name, linear in _linears(network, lora.targets):
        linear.lora = Adapter(linear, name, lora, network, dropout)
        linear.lora.draw(seed)
        hooks.append(linear.register_forward_hook(linear.lora.add))
    for layer in network.decoder.layers:
        hooks.append(layer.register_forward_pre_hook(dropout.before_layer, with_kwargs=True))
    if network.pre_process and network.config.recompute_granularity == "full":
        hooks.append(network.embedding.register_forward_hook(_begin_gradient))
    if head := _head(network):
        head.weight.requires_grad_(True)
    network.adaptation = Adaptation(lora, base, parent, dropout, tuple(hooks))  # type: ignore[assignment]


def check_targets(lora: Lora, *, experts: bool) -> None:
    """Raise `ConfigError` for linears that get no adapter: those of a mixture's experts."""
    refused = [name for name in lora.targets if name in _PARTS["mlp"]] if experts else []
    if refused:
        raise ConfigError(
            "lora-on-experts",
            f"lora.targets names linears of experts: {', '.join(refused)}",
            expected="linear_qkv, linear_proj",
            found=", ".join(lora.targets),
            kept="nothing was started",
            next="leave them out of lora.targets",
        )


def fold(network: Network) -> None:
    """Add the adapters to the weights, in fp32 and then cast; what is left is an ordinary network, free to learn."""
    adaptation = of(network)
    assert adaptation is not None, "the network has no adapters"
    for hook in adaptation.hooks:
        hook.remove()
    with torch.no_grad():
        for _, _, linear in _linears(network, adaptation.lora.targets):
            linear.weight.copy_(linear.weight.float() + linear.lora.delta())
            del linear.lora
    del network.adaptation
    network.requires_grad_(True)


def tensors(network: Network) -> dict[str, Any]:
    """The adapters, and a scalar head, by their names in `network`, as Megatron saves them."""
    adaptation = of(network)
    assert adaptation is not None, "the network has no adapters"
    sharded: dict[str, Any] = {}
    for local, _, linear in _linears(network, adaptation.lora.targets):
        sharded |= {f"{local}.lora.{part}": tensor for part, tensor in linear.lora.tensors().items()}
    if head := _head(network):
        sharded |= make_sharded_tensors_for_checkpoint({"weight": head.weight}, "output_layer.")
    return sharded


def at_step(model: Any, step: int) -> None:
    """Say which step `model`, wrapped or not, is trained in now: it decides what dropout drops."""
    while not isinstance(model, Network):
        model = model.module
    if (adaptation := of(model)) is not None:
        adaptation.dropout.step = step


def adapters(network: Network) -> Iterator[tuple[str, Adapter]]:
    """The adapters on this pipeline stage, by the name of their linear in the whole network."""
    adaptation = of(network)
    for _, name, linear in _linears(network, () if adaptation is None else adaptation.lora.targets):
        yield name, linear.lora


def _linears(network: Network, targets: tuple[str, ...]) -> Iterator[tuple[str, str, Any]]:
    """The linears of these kinds: the name here, the name in the whole network, the module."""
    for index, layer in enumerate(network.decoder.layers):
        for part, names in _PARTS.items():
            for name in (name for name in names if name in targets):
                here, whole = (f"decoder.layers.{number}.{part}.{name}" for number in (index, layer.layer_number - 1))
                yield here, whole, getattr(getattr(layer, part), name)


def _head(network: Network) -> ScalarHead | None:
    head = getattr(network, "output_layer", None)
    return head if isinstance(head, ScalarHead) else None


def _begin_gradient(embedding: Any, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
    """Recomputation passes gradients on only where its input wants one, which a frozen embedding's output does not."""
    return output.requires_grad_() if torch.is_grad_enabled() and not output.requires_grad else output
