"""A network with adapters on it as PEFT itself merges them, where PEFT is installed: what the check holds against.

PEFT is handed the tensors and the settings that were read, never the folder: no setting of an adapter_config.json can
make it import or look for anything, and no expression of it is matched by an engine that may never end.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import torch

from trainers.adapter_folder import PLAIN
from trainers.adapter_tensors import PREFIX
from trainers.engine.weights.adapted_folder import AdaptedFolder
from trainers.engine.weights.tensorfile import DTYPES

_NO_MODULES = "dummy-target-modules"
"""PEFT's word for a model without adapters."""


def installed() -> Any:
    """PEFT; None where it cannot be imported: the check then goes without."""
    try:
        import peft
    except ImportError:
        return None
    return peft


@torch.no_grad()
def merged(peft: Any, network: torch.nn.Module, folder: AdaptedFolder) -> Any:
    """`network`, the base of `folder` as transformers has it in fp32 (or its first layers), with the adapters that
    belong to its modules merged into it, and rounded as those of the folder are.
    """
    folder.fit(network)
    there = dict(network.named_modules()).keys()
    weights = {name: full for name, full in folder.theirs.items() if full.rpartition(".")[0] in there}
    modules = {full.rpartition(".")[0] for full in weights.values()}
    named = folder.deltas.tensors
    config = peft.LoraConfig(
        target_modules=[module for module in named.adapters if module in modules] or _NO_MODULES,
        modules_to_save=sorted({name.rpartition(".")[0] for name in named.copies} & modules) or None,
        **_settings(folder, modules),
    )
    model = peft.get_peft_model(network, config, autocast_adapter_dtype=False)
    parts = [part for name in weights for part in folder.parts(name)]
    tensors = {PREFIX + _plain(part): folder.deltas.read(part) for part in parts}
    strange = peft.set_peft_model_state_dict(model, tensors).unexpected_keys
    assert not strange, f"PEFT has no place for {sorted(strange)}"
    network = model.merge_and_unload()
    parameters = dict(network.named_parameters())
    for name, full in weights.items():
        parameters[full].copy_(parameters[full].to(DTYPES[folder.dtype(name)]))
    return network


def _plain(part: str) -> str:
    return part.removeprefix(PREFIX).replace(".modules_to_save.", ".")


def _settings(folder: AdaptedFolder, modules: Collection[str]) -> dict[str, Any]:
    adapters, named = folder.adapters, folder.deltas.tensors
    given = adapters.settings
    settings: dict[str, Any] = {"r": int(given["r"]), "lora_alpha": given["lora_alpha"]}
    settings |= {name: True for name in ("use_rslora", "use_dora") if given.get(name)}
    for name, ask in (("rank_pattern", adapters.rank), ("alpha_pattern", adapters.alpha)):
        patterns = given.get(name) or {}
        if not all(map(PLAIN.fullmatch, patterns)):
            patterns = {f"^{re.escape(module)}": ask(module) for module in named.adapters}
        settings[name] = patterns
    tokens = {module: adapters.tokens(module) for module in named.tokens if module in modules}
    return settings | ({"trainable_token_indices": tokens} if tokens else {})
