"""Tiny models as NeMo would have written them, in every layout.

Tensors are cut and named here as Megatron-Core and NeMo's GPT before it do it, without the engine.
"""

from __future__ import annotations

import io
import json
import math
import os
import pickle
import re
import tarfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from tests.trainers import networks
from tests.trainers.weights.nemo_oracle import IDS, Weights, channels, heads_of, is_gated

ROWS = 64
"""Rows that the vocabulary is filled up to."""

_COMMON = {
    "num_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "encoder_seq_length": 64,
    "max_position_embeddings": 64, "layernorm_epsilon": 1e-5, "make_vocab_size_divisible_by": 64, "hidden_dropout": 0.0,
    "tensor_model_parallel_size": 1, "pipeline_model_parallel_size": 1, "micro_batch_size": 4, "seed": 1234,
    "tokenizer": {"library": "huggingface", "type": "nemo:0123abcd_tokenizer.json", "model": None},
    "optim": {"name": "fused_adam", "lr": 2e-4}, "target": "nemo.collections.nlp.models.MegatronGPTModel",
    "nemo_version": "1.21.0", "precision": "bf16-mixed", "apply_query_key_layer_scaling": True,
}  # fmt: skip
_ROPE = _COMMON | {
    "position_embedding_type": "rope", "bias": False, "share_embeddings_and_output_weights": False,
}  # fmt: skip
_LLAMA = _ROPE | {"ffn_hidden_size": 64, "activation": "fast-swiglu", "normalization": "rmsnorm"}
_HALF = _ROPE | {"rotary_percentage": 0.5, "normalization": "layernorm1p"}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt-2b-001": _HALF | {"ffn_hidden_size": 88, "activation": "swiglu"},
    "llama-2": _LLAMA,
    "llama-3.1": _LLAMA | {"num_query_groups": 2, "rotary_base": 500000.0, "scale_positional_embedding": True},
    "mistral": _LLAMA | {"num_query_groups": 2, "window_size": [7, 0]},
    "nemotron-4": _HALF
    | {"ffn_hidden_size": 96, "activation": "squared-relu", "num_query_groups": 2, "kv_channels": 16},
    "mixtral": _LLAMA
    | {"ffn_hidden_size": 48, "num_query_groups": 2, "num_moe_experts": 4, "moe_router_topk": 2},
    "gpt-3": _COMMON
    | {
        "ffn_hidden_size": 128, "activation": "gelu", "normalization": "layernorm", "bias": True,
        "position_embedding_type": "learned_absolute", "share_embeddings_and_output_weights": True,
    },
}  # fmt: skip


def weights(config: Mapping[str, Any], seed: int = 0, dtype: torch.dtype = torch.float32) -> Weights:
    """Random weights of a model under Megatron-Core's names, those of each layer of its own."""
    torch.manual_seed(seed)
    hidden, width, bias = config["hidden_size"], config["ffn_hidden_size"], config.get("bias", True)
    rows, size = heads_of(config), channels(config)
    norm = ("weight",) if config["normalization"] == "rmsnorm" else ("weight", "bias")
    centre = 0.0 if config["normalization"] == "layernorm1p" else 1.0
    wide = 2 * width if is_gated(config) else width
    made: Weights = {"embedding.word_embeddings.weight": torch.randn(ROWS, hidden)}
    if config["position_embedding_type"] != "rope":
        made["embedding.position_embeddings.weight"] = torch.randn(config["max_position_embeddings"], hidden)

    def linear(name: str, outputs: int, inputs: int) -> None:
        made[f"{name}.weight"] = torch.randn(outputs, inputs) / math.sqrt(inputs)
        if bias and "experts" not in name:
            made[f"{name}.bias"] = torch.randn(outputs) / 8

    def norms(name: str) -> None:
        for part in norm:
            made[name + part] = (centre if part == "weight" else 0.0) + torch.randn(hidden) / 8

    for layer in range(config["num_layers"]):
        here = f"decoder.layers.{layer}."
        norms(f"{here}self_attention.linear_qkv.layer_norm_")
        linear(f"{here}self_attention.linear_qkv", sum(rows) * size, hidden)
        linear(f"{here}self_attention.linear_proj", hidden, config["num_attention_heads"] * size)
        if number := config.get("num_moe_experts"):
            norms(f"{here}pre_mlp_layernorm.")
            made[f"{here}mlp.router.weight"] = torch.randn(number, hidden)
            for expert in range(number):
                linear(f"{here}mlp.experts.local_experts.{expert}.linear_fc1", wide, hidden)
                linear(f"{here}mlp.experts.local_experts.{expert}.linear_fc2", hidden, width)
        else:
            norms(f"{here}mlp.linear_fc1.layer_norm_")
            linear(f"{here}mlp.linear_fc1", wide, hidden)
            linear(f"{here}mlp.linear_fc2", hidden, width)
    norms("decoder.final_layernorm.")
    if not config.get("share_embeddings_and_output_weights", True):
        made["output_layer.weight"] = torch.randn(ROWS, hidden) / math.sqrt(hidden)
    return {name: tensor.to(dtype) for name, tensor in made.items()}


def local(made: Weights) -> Weights:
    """The same under the names of Megatron-Core's layers without Transformer Engine."""
    pairs = (
        ("self_attention.linear_qkv.layer_norm_", "input_layernorm."),
        ("mlp.linear_fc1.layer_norm_", "pre_mlp_layernorm."),
    )
    for old, new in pairs:
        made = {name.replace(old, new): tensor for name, tensor in made.items()}
    return made


def earlier(config: Mapping[str, Any], made: Weights) -> Weights:
    """The same under the names of NeMo's GPT before Megatron-Core; `swiglu` keeps the gate's other half apart."""
    pairs = (
        ("decoder.", "encoder."), ("self_attention.linear_qkv.layer_norm_", "input_layernorm."),
        ("mlp.linear_fc1.layer_norm_", "post_attention_layernorm."), ("linear_qkv", "query_key_value"),
        ("linear_proj", "dense"), ("linear_fc1", "dense_h_to_4h"), ("linear_fc2", "dense_4h_to_h"),
    )  # fmt: skip
    renamed: Weights = {}
    for core, tensor in made.items():
        name = core
        for old, new in pairs:
            name = name.replace(old, new)
        if "dense_h_to_4h." in name and config["activation"] == "swiglu":
            one, two = tensor.chunk(2)
            renamed[f"language_model.{name}"] = one
            renamed[f"language_model.{name.replace('dense_h_to_4h.', 'dense_h_to_4h_2.')}"] = two
        else:
            renamed[f"language_model.{name}"] = tensor
    return renamed


_ROWWISE = re.compile(r"word_embeddings|output_layer|linear_qkv\.(w|b)|query_key_value|linear_fc1\.(w|b)|dense_h_to_4h")
_COLUMNWISE = re.compile(r"(linear_proj|self_attention\.dense|linear_fc2|dense_4h_to_h|rm_head)\.weight")


def ranks(config: Mapping[str, Any], made: Weights, tensor: int, pipeline: int) -> dict[tuple[int, int], Weights]:
    """What each rank of a grid holds, layers numbered anew on each stage."""
    per = config["num_layers"] // pipeline
    halves = is_gated(config) and not any("dense_h_to_4h_2" in name for name in made)
    parts: dict[tuple[int, int], Weights] = {(t, p): {} for t in range(tensor) for p in range(pipeline)}
    for name, whole in made.items():
        layer = re.search(r"layers\.(\d+)\.", name)
        stage = int(layer[1]) // per if layer else 0 if "embeddings" in name else pipeline - 1
        own = name.replace(layer[0], f"layers.{int(layer[1]) % per}.") if layer else name
        for rank in range(tensor):
            part = whole
            if _ROWWISE.search(name) and halves and re.search(r"linear_fc1\.(w|b)|dense_h_to_4h\.", name):
                part = torch.cat([half.chunk(tensor)[rank] for half in whole.chunk(2)])
            elif _ROWWISE.search(name):
                part = whole.chunk(tensor)[rank]
            elif _COLUMNWISE.search(name):
                part = whole.chunk(tensor, dim=1)[rank]
            parts[rank, stage][f"model.{own}"] = part.clone()
    return parts


def rank_files(config: Mapping[str, Any], made: Weights, tensor: int = 1, pipeline: int = 1) -> dict[str, bytes]:
    """Files of `torch.save` as NeMo calls those of ranks."""
    files = {}
    for (t, p), part in ranks(config, made, tensor, pipeline).items():
        state: OrderedDict[str, Any] = OrderedDict(part)
        state["model.decoder.layers.0.self_attention._extra_state"] = io.BytesIO(b"beside")
        state._metadata = OrderedDict(version=1)  # type: ignore[attr-defined]
        folder = "" if tensor * pipeline == 1 else f"mp_rank_{t:02d}/"
        folder = f"tp_rank_{t:02d}_pp_rank_{p:03d}/" if pipeline > 1 else folder
        data = io.BytesIO()
        torch.save(state, data)
        files[f"{folder}model_weights.ckpt"] = data.getvalue()
    return files


def stacked(made: Weights) -> dict[str, Tensor]:
    """The layers of each weight, and the experts, in one tensor."""
    groups: dict[str, list[tuple[list[int], Tensor]]] = {}
    for name, tensor in made.items():
        places = [int(number) for number in re.findall(r"(?:layers|local_experts)\.(\d+)\.", name)]
        own = re.sub(r"layers\.\d+\.", "layers.", name)
        groups.setdefault(re.sub(r"local_experts\.\d+\.", "experts.", own), []).append((places, tensor))
    whole = {}
    for name, parts in groups.items():
        parts.sort(key=lambda pair: pair[0])
        lead = [1 + max(place[axis] for place, _ in parts) for axis in range(len(parts[0][0]))]
        whole[name] = (
            torch.stack([tensor for _, tensor in parts]).reshape(*lead, *parts[0][1].shape) if lead else parts[0][1]
        )
    return whole


def distributed_files(made: Weights, folder: str, prefix: str, writers: int = 2) -> dict[str, bytes]:
    """A distributed checkpoint of two writers' files, each weight in two boxes, as Megatron's `torch_dist`."""
    from torch.distributed.checkpoint import metadata as md
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    data = [io.BytesIO() for _ in range(writers)]
    entries: dict[str, Any] = {}
    places: dict[Any, Any] = {}
    for name, whole in {**stacked(made), "optimizer.state.exp_avg.x": torch.ones(3)}.items():
        full = name if name.startswith("optimizer") else prefix + name
        axis = whole.dim() - 1
        at, chunks = 0, []
        for number, part in enumerate(whole.chunk(writers, dim=axis)):
            offset = torch.Size((*(0 for _ in range(axis)), at))
            out, begin = data[number], data[number].tell()
            torch.save(part.clone(), out)
            out.seek(0, os.SEEK_END)
            places[md.MetadataIndex(full, offset)] = _StorageInfo(f"__{number}_0.distcp", begin, out.tell() - begin)
            chunks.append(md.ChunkStorageMetadata(offset, torch.Size(part.shape)))
            at += part.shape[axis]
        entries[full] = md.TensorStorageMetadata(
            md.TensorProperties(dtype=whole.dtype), torch.Size(whole.shape), chunks
        )
    entries[f"{prefix}decoder.layers._extra_state/shard_0_1"] = md.BytesStorageMetadata()
    files = {f"{folder}__{number}_0.distcp": out.getvalue() for number, out in enumerate(data)}
    files[f"{folder}.metadata"] = pickle.dumps(md.Metadata(entries, storage_data=places))
    return {**files, f"{folder}metadata.json": b'{"sharded_backend": "torch_dist"}', f"{folder}common.pt": b"unread"}


def zarr_files(made: Weights, folder: str) -> dict[str, bytes]:
    """A zarr folder of each weight: plain chunks, the last ones of an axis filled up."""
    files = {}
    for name, whole in stacked(made).items():
        step = [1] * (whole.dim() - 1) + [-(-whole.shape[-1] // 3)]
        if whole.dim() > 1:
            step[-2] = whole.shape[-2]
        padded = F.pad(whole, (0, step[-1] * 3 - whole.shape[-1]))
        here = f"{folder}model.{name}/"
        says = {"zarr_format": 2, "shape": list(whole.shape), "chunks": step, "dtype": "<f4", "order": "C"}
        files[f"{here}.zarray"] = json.dumps(says | {"compressor": None, "fill_value": None, "filters": None}).encode()
        for place in (
            torch.cartesian_prod(*(torch.arange(s // c) for s, c in zip(padded.shape, step, strict=True)))
            .reshape(-1, whole.dim())
            .tolist()
        ):
            part = padded[tuple(slice(p * c, (p + 1) * c) for p, c in zip(place, step, strict=True))]
            files[here + ".".join(map(str, place))] = part.contiguous().numpy().tobytes()
    return files


def tokenizer_file() -> bytes:
    """The tokenizer of `IDS` words."""
    return networks.words(IDS).to_str().encode()


def archive(path: Path, config: Mapping[str, Any], files: Mapping[str, bytes], mode: str = "w") -> Path:
    """A `.nemo` file of these weights' files, with settings and tokenizer; mode `w:gz` packs it."""
    everything = {
        "model_config.yaml": yaml.safe_dump(dict(config)).encode(),
        "0123abcd_tokenizer.json": tokenizer_file(),
    }
    with tarfile.open(path, mode) as tar:
        for name, data in {**everything, **files}.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mtime = len(data), 1700000000.5
            tar.addfile(member, io.BytesIO(data))
    return path


def second_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of NeMo 2's `context/model.yaml` for a model of NeMo 1's settings."""
    function = {"squared-relu": "megatron.core.activations.squared_relu", "gelu": "torch.nn.functional.gelu"}
    names = {"rmsnorm": "RMSNorm", "layernorm": "LayerNorm", "layernorm1p": "LayerNorm"}
    keys = ("num_layers", "hidden_size", "ffn_hidden_size", "num_attention_heads", "layernorm_epsilon")
    kept = (
        *keys,
        "num_query_groups",
        "kv_channels",
        "position_embedding_type",
        "rotary_base",
        "window_size",
        "num_moe_experts",
    )
    made = {
        key: config[key] for key in (*kept, "moe_router_topk", "share_embeddings_and_output_weights") if key in config
    }
    norm = config["normalization"]
    made |= {
        "_target_": "nemo.collections.llm.gpt.model.base.GPTConfig", "seq_length": config["encoder_seq_length"],
        "rotary_percent": config.get("rotary_percentage", 1.0), "normalization": names[norm],
        "layernorm_zero_centered_gamma": norm == "layernorm1p", "gated_linear_unit": is_gated(config),
        "activation_func": {"_target_": function.get(config["activation"], "torch.nn.functional.silu")},
        "add_bias_linear": config.get("bias", True), "add_qkv_bias": False, "bias_activation_fusion": True,
        "hidden_dropout": 0.0, "attention_softmax_in_fp32": False, "tp_comm_overlap": False, "moe_aux_loss_coeff": 0.0,
        "params_dtype": {"_target_": "torch.bfloat16", "_call_": False}, "cross_entropy_loss_fusion": True,
    }  # fmt: skip
    if config.get("scale_positional_embedding"):
        made |= {"scale_factor": 8, "low_freq_factor": 1, "high_freq_factor": 4, "old_context_len": 8192}
    return {"_target_": "nemo.collections.llm.gpt.model.base.GPTModel", "config": made, "optim": {"_target_": "x.Y"}}


def second_folder(path: Path, config: Mapping[str, Any], made: Weights) -> Path:
    """A checkpoint folder of NeMo 2."""
    files = distributed_files(made, "weights/", "module.")
    files["context/model.yaml"] = yaml.safe_dump(second_config(config)).encode()
    files["context/io.json"] = b'{"root": {"type": "ref", "key": "os.system"}}'
    files["context/nemo_tokenizer/tokenizer.json"] = tokenizer_file()
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path
