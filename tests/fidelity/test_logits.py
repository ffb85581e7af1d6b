"""Logits over whole sequences, past windows and past what rope was stretched from, against transformers in fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fidelity import folders
from tests.fidelity.folders import ABSENT
from tests.trainers import toys
from trainers.engine.checkpoint import checkpoint
from trainers.engine.megatron import parallel
from trainers.engine.weights import check, comparison
from trainers.engine.weights.import_hf import import_hf
from trainers.parallel import Parallel

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

STRETCH = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
V5 = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **STRETCH}}
V4 = {"rope_parameters": ABSENT, "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **STRETCH}}
OLDER = {"rope_parameters": ABSENT, "rope_theta": 500000, "rope_scaling": {"type": "llama3", **STRETCH}}
EVERYWHERE = {"use_sliding_window": True, "max_window_layers": 0}
LONG = {"max_position_embeddings": 4608, "num_hidden_layers": 2}
NO_WINDOW = {"sliding_window": ABSENT, "layer_types": ABSENT}

Case = tuple[str, dict[str, Any], dict[str, Any], int]
FAST: dict[str, Case] = {
    # what transformers builds, its settings, keys of config.json set or taken out, tokens
    "llama": ("Llama", {}, {}, 256),
    "llama 3.1": ("Llama", {**V5, "head_dim": 32}, {}, 250),
    "mistral window 8": ("Mistral", {"sliding_window": 8}, {}, 250),
    "mixtral": ("Mixtral", {"num_local_experts": 4}, {}, 250),
    "nemotron": ("Nemotron", {}, {}, 250),
    "gpt2": ("GPT2", {}, {}, 256),
    "qwen2": ("Qwen2", {}, {}, 250),
    "qwen2 without the size of its window": ("Qwen2", {**EVERYWHERE, **LONG}, NO_WINDOW, 4500),
    "qwen3 window 8": ("Qwen3", {**EVERYWHERE, "sliding_window": 8, "head_dim": 32}, {}, 250),
}


def _slow() -> dict[str, Case]:
    cases: dict[str, Case] = {
        "mistral without the size of its window": ("Mistral", LONG, {"sliding_window": ABSENT}, 4500),
        "mistral without a window": ("Mistral", {**LONG, "sliding_window": None}, {}, 4500),
        "qwen3 without the size of its window": ("Qwen3", {**EVERYWHERE, **LONG, "head_dim": 32}, NO_WINDOW, 4500),
        "qwen3 window null": ("Qwen3", {**LONG, "head_dim": 32}, {**EVERYWHERE, "sliding_window": None}, 4500),
        "qwen2 a window that is not used": ("Qwen2", {}, {"sliding_window": 8, "use_sliding_window": False}, 250),
        "qwen2 windows after the last layer": ("Qwen2", {**EVERYWHERE, "max_window_layers": 3}, NO_WINDOW, 250),
        "mixtral window 8": ("Mixtral", {"num_local_experts": 4, "sliding_window": 8}, {}, 250),
        "mixtral three of five": ("Mixtral", {"num_local_experts": 5, "num_experts_per_tok": 3}, {}, 250),
        "nemotron quarter rope": ("Nemotron", {"partial_rotary_factor": 0.25}, {}, 250),
        "nemotron biased": ("Nemotron", {"attention_bias": True, "mlp_bias": True}, {}, 250),
        "llama biased": ("Llama", {"attention_bias": True, "mlp_bias": True}, {}, 250),
        "gpt2 n_inner": ("GPT2", {"n_inner": 48}, {}, 256),
        "gpt2 one layer": ("GPT2", {"n_layer": 1}, {}, 256),
        "llama one layer": ("Llama", {"num_hidden_layers": 1}, {}, 250),
        "llama absent keys": ("Llama", {"num_key_value_heads": 4}, _absent("num_key_value_heads", "head_dim"), 250),
        "qwen3 head of 128": ("Qwen3", {"head_dim": 128}, _absent("head_dim"), 250),
        "mistral eight groups": (
            "Mistral",
            {"num_attention_heads": 8, "num_key_value_heads": 8, "sliding_window": None},
            _absent("num_key_value_heads", "head_dim"),
            250,
        ),
        "mixtral absent keys": (
            "Mixtral",
            {"num_local_experts": 8},
            _absent("num_local_experts", "num_experts_per_tok", "sliding_window", "rms_norm_eps"),
            250,
        ),
    }
    rotated: dict[str, dict[str, Any]] = {
        "Llama": {},
        "Mistral": {"sliding_window": 8},
        "Qwen2": {},
        "Qwen3": {"head_dim": 32},
    }
    rotated["Mixtral"] = {"num_local_experts": 4}
    for kind, own in rotated.items():
        for spelling, keys in (("5", {}), ("4", V4), ("older", OLDER)):
            cases[f"{kind} llama3 rope spelt as in {spelling}"] = (kind, {**own, **V5}, keys, 250)
        plain = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
        cases[f"{kind} rope_theta"] = (kind, {**own, **plain}, {"rope_parameters": ABSENT, "rope_theta": 1e6}, 250)
        cases[f"{kind} no rope keys"] = (kind, own, {"rope_parameters": ABSENT}, 250)
        cases[f"{kind} one group"] = (kind, {**own, "num_key_value_heads": 1}, {}, 250)
        cases[f"{kind} a group a head"] = (kind, {**own, "num_key_value_heads": 4}, {}, 250)
        cases[f"{kind} tied"] = (kind, {**own, "tie_word_embeddings": True}, {}, 250)
        cases[f"{kind} epsilon"] = (kind, {**own, "rms_norm_eps": 1e-2}, {}, 250)
        cases[f"{kind} epsilon absent"] = (kind, own, {"rms_norm_eps": ABSENT}, 250)
    for size in (1, 8, 249, 250):
        cases[f"mistral window {size} slow"] = ("Mistral", {"sliding_window": size}, {}, 250)
        cases[f"qwen2 window {size}"] = ("Qwen2", {**EVERYWHERE, "sliding_window": size}, {}, 250)
        cases[f"qwen2 window {size} over old keys"] = (
            "Qwen2",
            {**EVERYWHERE, "sliding_window": size},
            {"layer_types": ABSENT},
            250,
        )
    return cases


def _absent(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, ABSENT)


SLOW = _slow()
FORMS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def difference(source: Path, root: Path, length: int) -> float:
    """Of all logits of one sequence of `length` tokens, relative to the greatest where that is above 1."""
    import_hf(str(source), str(root / "checkpoint"), check="off", say=lambda line: None)
    model = checkpoint.open_checkpoint(str(root / "checkpoint"), verify="off").model
    ids = comparison.sample_ids(model, length, rows=1)
    assert ids.shape == (1, length)
    theirs = comparison.theirs(str(source), ids, model.head)
    ours = comparison.ours(str(root / "checkpoint"), model, ids, parallel.start(Parallel()))
    assert theirs.std() > 0.1
    return (ours - theirs).abs().max().item() / max(1.0, theirs.abs().max().item())


@pytest.mark.parametrize("name", FAST)
def test_every_family_in_full_length(tmp_path: Path, name: str) -> None:
    kind, settings, keys, length = FAST[name]
    source = folders.write(tmp_path / "source", kind, settings, keys=keys)
    assert difference(source, tmp_path, length) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_configurations_in_full_length(tmp_path: Path, name: str) -> None:
    kind, settings, keys, length = SLOW[name]
    source = folders.write(tmp_path / "source", kind, settings, keys=keys)
    assert difference(source, tmp_path, length) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["Llama", "Mistral", "Mixtral", "Nemotron", "GPT2", "Qwen2", "Qwen3"])
def test_half_types_in_shards(tmp_path: Path, kind: str, form: str) -> None:
    own = {"num_local_experts": 4} if kind == "Mixtral" else {}
    source = folders.write(tmp_path / "source", kind, own, dtype=FORMS[form], max_shard_size="40KB")
    assert len(list(source.glob("*.safetensors"))) > 1
    assert difference(source, tmp_path, 250) < 1e-5


REACHES = {
    "llama 3.1": ("Llama", V5, 32 + 64),
    "mistral": ("Mistral", {"sliding_window": 70}, 70 + 64),
    "never reached": ("Mistral", {"sliding_window": 256}, 0),
    "gpt2": ("GPT2", {}, 256),
    "llama": ("Llama", {}, 0),
}


@pytest.mark.parametrize("case", REACHES)
def test_the_check_runs_past_the_window_and_the_stretch(tmp_path: Path, case: str) -> None:
    kind, settings, length = REACHES[case]
    source = folders.write(tmp_path / "source", kind, settings)
    import_hf(str(source), str(tmp_path / "checkpoint"), check="off", say=lambda line: None)
    model = checkpoint.open_checkpoint(str(tmp_path / "checkpoint"), verify="off").model
    job = {"folder": str(source), "place": str(tmp_path / "checkpoint")}
    seen = comparison.beyond(job, model, parallel.start(Parallel()))
    assert seen.get("tokens", 0) == length
    assert not length or seen["difference"] < 1e-5 * max(1.0, seen["greatest"])


def test_what_is_not_exercised_is_reported() -> None:
    model = toys.model(window=1 << 16, max_sequence_length=1 << 18)
    seen = comparison.beyond({}, model, parallel.start(Parallel()))
    assert "difference" not in seen and seen["tokens"] == (1 << 16) + 64
    assert check._past(seen, model, "folder") == (
        "not exercised: the window of 65,536 (it takes 65,600 tokens, 32,768 are run at most)"
    )
    deep = toys.model(window=70, num_layers=5, max_sequence_length=256)
    text = check._past({"tokens": 134, "difference": 1e-7, "greatest": 2.0}, deep, "folder")
    assert text == "the window of 70, first 2 layers at token 134: 1e-07 (not in layers 3 to 5)"


@pytest.mark.parametrize(
    ("kind", "settings", "wrong"),
    [
        ("Mistral", {"sliding_window": 70}, {"window": None}),
        ("Mistral", {"sliding_window": 70}, {"window": 71}),
        ("Llama", V5, {"rope_scaling": None}),
    ],
)
def test_what_shows_in_long_texts_alone_is_seen(
    tmp_path: Path, kind: str, settings: dict[str, Any], wrong: dict[str, Any]
) -> None:
    source = folders.write(tmp_path / "source", kind, settings)
    import_hf(str(source), str(tmp_path / "checkpoint"), check="off", say=lambda line: None)
    right = checkpoint.open_checkpoint(str(tmp_path / "checkpoint"), verify="off").model
    model = type(right)(**{**vars(right), **wrong})
    layout, place = parallel.start(Parallel()), str(tmp_path / "checkpoint")
    ids = comparison.sample_ids(right, comparison.reach(right), rows=1)
    theirs = comparison.their_end(str(source), ids, "lm")
    assert (comparison.our_end(place, right, ids, layout) - theirs).abs().max() < 1e-4
    assert (comparison.our_end(place, model, ids, layout) - theirs).abs().max() > 1e-2
