"""What a network starts from, the same at every layout: each weight drawn whole from a generator of its own.

The generator is seeded by (seed, the weight's name in the whole network), and the weight is then cut, so neither
tensor, pipeline nor expert sizes change what a network starts from, nor does the vocabulary's padding. How a weight is
cut follows from its name.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainers.architecture import ModelConfig
from trainers.engine.megatron.parallel import Layout

_STD = 0.02
_GROUPED = re.compile(r"\.experts\.(linear_fc[12]\.weight)(\d+)$")


def initialise(network: Any, model: ModelConfig, layout: Layout, seed: int) -> None:
    """Draw all weights: normal, 0.02, residual outputs divided by sqrt(2 layers) (GPT-2); norms one (zero, where they
    are stored less one), biases zero.
    """
    first_layer = network.decoder.layers[0].layer_number - 1
    with torch.no_grad():
        for local, parameter in network.named_parameters():
            name = _whole_name(local, first_layer, model, layout)
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name:
                parameter.fill_(0.0 if model.zero_centered_norm else 1.0)
            else:
                parameter.copy_(_cut(name, _drawn(name, parameter, model, layout, seed), parameter, model, layout))


def mark_cut(network: Any, model: ModelConfig) -> None:
    """Tell the optimizer which weights are slices; it adds the rest up once per tensor group in the gradient's norm.

    An expert's weights are never the same on two ranks of a tensor group: they count everywhere.
    """
    for name, parameter in network.named_parameters():
        whole = "norm" in name or name.endswith(("linear_proj.bias", "linear_fc2.bias"))
        dimension = None if whole else _dimension(name, model)
        parameter.tensor_model_parallel = dimension is not None
        parameter.partition_dim, parameter.partition_stride = -1 if dimension is None else dimension, 1


def _whole_name(local: str, first_layer: int, model: ModelConfig, layout: Layout) -> str:
    """The weight's name at one process: layers and experts counted through, grouped experts by their names alone."""
    if model.tie_embeddings and local == "output_layer.weight":
        return "embedding.word_embeddings.weight"
    name = _GROUPED.sub(lambda match: f".experts.local_experts.{match.group(2)}.{match.group(1)}", local)
    name = re.sub(r"(?<=\.layers\.)\d+", lambda match: str(int(match.group()) + first_layer), name)
    first_expert = 0 if model.experts is None else layout.expert_rank * (model.experts.number // layout.expert)
    return re.sub(r"(?<=\.local_experts\.)\d+", lambda match: str(int(match.group()) + first_expert), name)


def _dimension(name: str, model: ModelConfig) -> int | None:
    """Along which dimension tensor parallelism cuts a weight."""
    if re.search(r"(linear_proj|linear_fc2)\.weight\d*$", name):
        return 1
    replicated = name.startswith("embedding.position") or ".router." in name
    replicated |= name == "output_layer.weight" and model.head == "scalar"
    return None if replicated else 0


def _of_vocabulary(name: str, model: ModelConfig) -> bool:
    return name == "embedding.word_embeddings.weight" or (name == "output_layer.weight" and model.head == "lm")


def _slices(name: str, layout: Layout) -> tuple[int, int]:
    """Into how many slices a weight is cut, and which of them is this process's."""
    if ".experts." in name:
        return layout.expert_tensor, layout.rank % layout.expert_tensor
    return layout.tensor, layout.tensor_rank


def _drawn(name: str, parameter: Tensor, model: ModelConfig, layout: Layout, seed: int) -> Tensor:
    """The whole weight, fp32 on the CPU; vocabulary rows without their padding."""
    shape = list(parameter.shape)
    dimension = _dimension(name, model)
    if dimension is not None:
        shape[dimension] *= _slices(name, layout)[0]
    if _of_vocabulary(name, model):
        shape[0] = model.vocab_size
    std = _STD / math.sqrt(2 * model.num_layers) if dimension == 1 else _STD
    number = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:8], "big") >> 1
    return torch.empty(shape).normal_(0.0, std, generator=torch.Generator().manual_seed(number))


def _cut(name: str, whole: Tensor, parameter: Tensor, model: ModelConfig, layout: Layout) -> Tensor:
    """This rank's slice; gate and up projections are cut one by one, vocabulary rows filled with zeros."""
    dimension, (parts, mine) = _dimension(name, model), _slices(name, layout)
    if _of_vocabulary(name, model):
        whole = F.pad(whole, (0, 0, 0, parameter.shape[0] * parts - model.vocab_size))
    if dimension is None:
        return whole
    if name.endswith("linear_fc1.weight") and model.gated:
        return torch.cat([half.chunk(parts)[mine] for half in whole.chunk(2)])
    return whole.chunk(parts, dim=dimension)[mine]
