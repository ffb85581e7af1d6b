"""A folder of diffusers opened, part by part: each by the class that `folder` knows, never by what a file asks for.

Whatever a library makes of a file that is not what it says ends in one error, before anything is drawn: settings that
the sampler here does not compute, ids beyond an encoder, a schedule of another kind.
"""

from __future__ import annotations

import importlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from schemas.errors import ConfigError, QuiverError, printable
from schemas.untrusted import once
from trainers.images.config import Sampler
from trainers.images.folder import SCHEDULER, WEIGHED, bad_folder, parts_of, read_index
from trainers.images.library import diffusers
from trainers.images.network import DiffusionNetwork

_PREDICTIONS = ("epsilon", "v_prediction")
_UNSET = ("time_cond_proj_dim", "class_embed_type", "num_class_embeds", "encoder_hid_dim_type")
"""Settings of a UNet that reads more than time, text and sizes."""


def open_network(folder: str, sampler: Sampler, *, checkpointing: bool = False) -> DiffusionNetwork:
    """The model in a folder of diffusers, on the GPU where there is one; `ConfigError` for what is none."""
    index = read_index(folder)
    with _reading(folder):
        parts = {name: _part(folder, name, *index[name]) for name in parts_of(index)}
        pipeline = _pipeline(index, {**parts, "scheduler": _scheduler(folder, index)})
        if faults := _faults(pipeline):
            raise bad_folder(folder, "; ".join(faults))
        network = DiffusionNetwork(pipeline, sampler)
        _check_steps(network)
        network.steps()
        network.conditions([""])
    pipeline.to("cuda" if torch.cuda.is_available() else "cpu")
    if checkpointing:
        pipeline.unet.enable_gradient_checkpointing()
        pipeline.vae.enable_gradient_checkpointing()
    return network


@contextmanager
def _reading(folder: str) -> Iterator[None]:
    try:
        yield
    except (QuiverError, MemoryError):
        raise
    except Exception as error:  # whatever libraries make of files from outside
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise bad_folder(folder, printable(words, 200)) from error


def _part(folder: str, name: str, library: str, kind: str) -> Any:
    """One part; `ConfigError` where its files lack weights, which the libraries would draw anew."""
    ours = library == "diffusers"
    home, place = diffusers() if ours else importlib.import_module(library), os.path.join(folder, name)
    if name not in WEIGHED:
        return getattr(home, kind).from_pretrained(place, local_files_only=True)
    how: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
    # what settings name is not taken: code to fetch, or halves for one part among others
    how |= {"low_cpu_mem_usage": False} if ours else {"attn_implementation": "sdpa", "dtype": torch.float32}
    network, seen = getattr(home, kind).from_pretrained(place, **how)
    lacking = sorted(map(str, {*seen["missing_keys"], *seen.get("mismatched_keys", ())}))
    if lacking:
        raise bad_folder(folder, f"{name} without {printable(lacking[0], 80)}, one of {len(lacking)} that are lacking")
    return network


def _scheduler(folder: str, index: Mapping[str, Any]) -> Any:
    """The folder's own scheduler, of whose settings the sampler's is made, as diffusers' users do it."""
    library, kind = diffusers(), index[SCHEDULER][1]
    made = getattr(library, kind, None)
    if not isinstance(made, type) or not issubclass(made, library.SchedulerMixin):
        raise bad_folder(folder, f"{SCHEDULER} is {printable(kind)}")
    text = (Path(folder) / SCHEDULER / f"{SCHEDULER}_config.json").read_text(encoding="utf-8")
    settings = json.loads(text, object_pairs_hook=once)  # diffusers writes bounds that are infinite
    if not isinstance(settings, dict):
        raise bad_folder(folder, f"the settings of {SCHEDULER} are {printable(settings, 80)}")
    return made.from_config(settings)  # type: ignore[attr-defined]


def _pipeline(index: Mapping[str, Any], parts: Mapping[str, Any]) -> Any:
    kind = getattr(diffusers(), index["_class_name"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of settings that the pipeline puts right
        if "text_encoder_2" in parts:
            zeros = index.get("force_zeros_for_empty_prompt", True)
            return kind(**parts, force_zeros_for_empty_prompt=zeros, add_watermarker=False)
        return kind(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def _faults(pipeline: Any) -> list[str]:
    """What of the settings the sampler here does not compute."""
    unet, vae, faults = pipeline.unet.config, pipeline.vae.config, list[str]()
    if (kind := pipeline.scheduler.config.get("prediction_type", "epsilon")) not in _PREDICTIONS:
        faults.append(f"prediction_type of the scheduler is {printable(kind)}")
    faults += [f"{name} of the UNet is {printable(unet[name])}" for name in _UNSET if unet.get(name) is not None]
    added = "text_time" if hasattr(pipeline, "text_encoder_2") else None
    if unet.addition_embed_type != added:
        faults.append(f"addition_embed_type of the UNet is {printable(unet.addition_embed_type)}")
    sizes = unet.sample_size if isinstance(unet.sample_size, list | tuple) else [unet.sample_size] * 2
    if len(sizes) != 2 or not all(type(size) is int and size > 0 for size in sizes):
        faults.append(f"sample_size of the UNet is {printable(unet.sample_size)}")
    if not unet.in_channels == unet.out_channels == vae.latent_channels:
        faults.append(f"a UNet of {unet.in_channels} channels on latents of {vae.latent_channels}")
    if type(vae.scaling_factor) not in (int, float) or not 0 < vae.scaling_factor < float("inf"):
        faults.append(f"scaling_factor of the autoencoder is {printable(vae.scaling_factor)}")
    for name in ("", "_2"):
        words, encoder = (getattr(pipeline, part + name, None) for part in ("tokenizer", "text_encoder"))
        if words is not None and encoder is not None:
            faults += _encoder_faults(f"tokenizer{name}", words, encoder.config)
    return faults


def _encoder_faults(name: str, words: Any, config: Any) -> list[str]:
    last, faults = max(words.get_vocab().values()), list[str]()
    if last >= config.vocab_size:
        faults.append(f"{name} has the id {last}, its encoder {config.vocab_size} of them")
    if words.model_max_length > config.max_position_embeddings:
        faults.append(f"{name} of {words.model_max_length} tokens, its encoder of {config.max_position_embeddings}")
    return faults


def _check_steps(network: DiffusionNetwork) -> None:
    steps, most = network.sampler.steps, network.scheduler.config.num_train_timesteps
    if steps > most:
        raise ConfigError(
            "contradiction",
            f"sampler.steps {steps} is more than the {most} steps that the model was trained on",
            expected=f"1 to {most}",
            kept="nothing was started",
        )
