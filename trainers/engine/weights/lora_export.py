"""Adapters on their way out: merged into their base as an ordinary checkpoint, or alone as a folder that PEFT loads.

Merging adds (alpha / rank) B A to the base's weights in fp32 and casts to the base's type. PEFT keeps query, key and
value apart, and gate and up, where Megatron has one linear: A is the same for all of them and B is cut as the weight
is, so the folder computes exactly what the adapters do.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from schemas.canonical import json_digest
from schemas.errors import ConfigError, ConflictError
from schemas.manifest import Manifest, Parent
from schemas.store.storage import guarded, shown
from trainers.architecture import ModelConfig
from trainers.engine.checkpoint import checkpoint
from trainers.engine.checkpoint.checkpoint import WEIGHTS, Checkpoint
from trainers.engine.checkpoint.stored import Stored
from trainers.engine.megatron import lora_base, parallel
from trainers.engine.weights import registry
from trainers.engine.weights.family import Family
from trainers.engine.weights.tensorfile import TensorWriter
from trainers.engine.weights.transforms import GROUPED, HALVES, PLAIN
from trainers.parallel import Parallel

_ROWS = (PLAIN, GROUPED, HALVES)
"""Transforms that move whole rows of a weight, and so those of B."""


def merge(source: str, out: str, *, task_key: str = "") -> Manifest:
    """Publish the adapters in `source`, added to their base, as the ordinary checkpoint `out`; its manifest.

    task_key: of the checkpoint (default: a digest of the inputs).
    `ConfigError` when `source` holds none, `IntegrityError` when the base is gone or changed.
    """
    opened, _ = _adapters(source)
    base = checkpoint.base_of(opened)
    layout = parallel.start(Parallel())
    network = checkpoint.load_model(opened, layout, precision=_precision(base))
    manifests = {"adapters": (opened.folder, opened.manifest), lora_base.BASE: (base.folder, base.manifest)}
    parents = tuple(Parent(name, folder, m.content_digest, m.task_key) for name, (folder, m) in manifests.items())
    op = {"name": "merge", "version": 1, "params": {}}
    return checkpoint.save(
        out,
        model=network,
        tokenizer_files=opened.tokenizer_files(),
        facts={name: fact for name, fact in opened.manifest.facts.items() if name != "weights_digest"},
        task_key=task_key or json_digest({"op": op, "inputs": [parent.content_digest for parent in parents]}),
        op=op,
        parents=parents,
        seed=opened.manifest.seed,
    )


def to_peft(source: str, out: str, base: str, *, family: str | None = None) -> list[str]:
    """Write the adapters in `source` as the PEFT folder `out` over the Hugging Face model `base` (a name or a folder).

    Returns the names of the tensors. The base need not be there. family: as in export (default: found from the shape).
    `ConfigError` for a shape that PEFT's names cannot say, `ConflictError` when `out` is taken.
    """
    opened, adapters = _adapters(source)
    if os.path.exists(out):
        raise ConflictError("out-taken", f"{shown(out)} is there already", where=shown(out), kept="what is there")
    tensors, modules = _renamed(_read(opened), opened.model, registry.of_model(opened.model, family))
    described = _config(adapters, modules, base, opened.model)
    attempt = f"{out.rstrip('/')}.attempt-{os.urandom(6).hex()}"
    with guarded("write", out):
        os.makedirs(attempt)
        try:
            with open(os.path.join(attempt, "adapter_config.json"), "w", encoding="utf-8") as file:
                json.dump(described, file, indent=2, sort_keys=True)
            entries = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]
            with TensorWriter(os.path.join(attempt, "adapter_model.safetensors"), entries) as writer:
                for name, tensor in tensors.items():
                    writer.write(name, tensor)
            os.rename(attempt, out)
        except BaseException:
            shutil.rmtree(attempt, ignore_errors=True)
            raise
    return list(tensors)


def _adapters(source: str) -> tuple[Checkpoint, lora_base.Adapters]:
    opened = checkpoint.open_checkpoint(source)
    if (adapters := opened.adapters) is not None:
        return opened, adapters
    raise ConfigError(
        "no-adapters",
        f"{shown(source)} holds a whole network, not adapters",
        expected=f"a checkpoint with {lora_base.LORA} (of a run with lora)",
        where=shown(source),
        kept="nothing was written",
        next="use it as it is",
    )


def _precision(source: Checkpoint) -> Any:
    stored = Stored(os.path.join(source.folder, WEIGHTS))
    return "bf16" if {stored.dtype(name) for name in stored.tensors} == {torch.bfloat16} else "fp32"


def _read(source: Checkpoint) -> dict[str, Tensor]:
    """All tensors of the checkpoint, whole."""
    stored = Stored(os.path.join(source.folder, WEIGHTS))
    return {name: stored.read(name) for name in stored.tensors}


def _renamed(tensors: Mapping[str, Tensor], model: ModelConfig, family: Family) -> tuple[dict[str, Tensor], set[str]]:
    """The tensors by PEFT's names, and the last names of the modules that get an adapter."""
    spellings = {stack.name: spelling[0] for stack, spelling in family.table(model)}
    renamed: dict[str, Tensor] = {}
    modules: set[str] = set()
    for name in sorted(name for name in tensors if name.endswith(".lora.a")):
        linear = name.removesuffix(".lora.a")
        _, _, layer, rest = linear.split(".", 3)
        spelling = spellings[f"decoder.layers.{rest}.weight"]
        if spelling.transform not in _ROWS:
            raise ConfigError(
                "not-for-peft",
                f"adapters on {rest} of a {family.name} have no exact form in PEFT",
                expected="a family that keeps its weights as [outputs, inputs]",
                kept="nothing was written",
                next="merge them and export the whole network",
            )
        for module, rows in zip(
            spelling.names, spelling.transform.split(tensors[f"{linear}.lora.b"], model), strict=True
        ):
            whole = module.format(layer=layer).removesuffix(".weight")
            modules.add(whole.rsplit(".", 1)[-1])
            renamed[f"base_model.model.{whole}.lora_A.weight"] = tensors[name]
            renamed[f"base_model.model.{whole}.lora_B.weight"] = rows
    if "output_layer.weight" in tensors:
        renamed["base_model.model.score.weight"] = tensors["output_layer.weight"]
    return renamed, modules


def _config(adapters: lora_base.Adapters, modules: set[str], base: str, model: ModelConfig) -> dict[str, Any]:
    scalar = model.head == "scalar"
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if scalar else "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapters.lora.rank,
        "lora_alpha": adapters.lora.alpha,
        "lora_dropout": adapters.lora.dropout,
        "target_modules": sorted(modules),
        "modules_to_save": ["score"] if scalar else None,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
