"""PEFT's folders as models: the weights that come in are those that a person would add by hand."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas.errors import ConfigError, DataError
from schemas.store.commit import read_manifest
from tests.trainers.weights import peft_folders, tiny
from trainers.adapter_folder import read_adapters
from trainers.engine.weights.adapted_folder import AdaptedFolder
from trainers.engine.weights.import_hf import import_hf

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

LLAMA = {
    "model.layers.0.self_attn.q_proj": (64, 64),
    "model.layers.1.self_attn.v_proj": (32, 64),
    "model.layers.1.mlp.down_proj": (64, 96),
}
GPT2 = {"transformer.h.0.attn.c_attn": (192, 64), "transformer.h.1.mlp.c_proj": (64, 256)}


def weights(place: Path) -> str:
    manifest = read_manifest(str(place))
    assert manifest is not None
    return str(manifest.facts["weights_digest"])


def quiet(source: Path, out: Path, **given: Any) -> str:
    lines: list[str] = []
    import_hf(str(source), str(out), say=lines.append, **given)
    return "; ".join(lines)


def by_hand(base: Path, out: Path, changed: dict[str, torch.Tensor]) -> Path:
    """A copy of the folder `base` with other values under some names."""
    shutil.copytree(base, out)
    tensors = load_file(out / "model.safetensors")
    for name, value in changed.items():
        assert tensors[name].shape == value.shape and not torch.equal(tensors[name], value)
        tensors[name] = value.to(tensors[name].dtype)
    save_file(tensors, out / "model.safetensors")
    return out


@pytest.mark.parametrize(
    ("name", "shapes", "dtype", "check"),
    [
        ("llama", LLAMA, torch.float32, "off"),
        ("llama", LLAMA, torch.bfloat16, "on"),
        pytest.param(
            "mistral", LLAMA, torch.float32, "on", marks=pytest.mark.slow
        ),  # its window makes the first layers run alone, past it
        ("gpt2", GPT2, torch.float32, "off"),
        pytest.param("gpt2", GPT2, torch.float32, "on", marks=pytest.mark.slow),
    ],
)
def test_what_comes_in_is_the_base_with_the_adapters_added(
    tmp_path: Path, name: str, shapes: dict[str, tuple[int, int]], dtype: torch.dtype, check: Any
) -> None:
    base = tiny.write(name, tmp_path / "base", dtype)
    turned = name == "gpt2"
    products = peft_folders.write(tmp_path / "lora", "../base", shapes, fan_in_fan_out=turned)
    before = load_file(base / "model.safetensors")
    changed = {f"{module}.weight": 2 * (p.T if turned else p) for module, p in products.items()}
    changed = {name: before[name].float() + delta for name, delta in changed.items()}
    hand = by_hand(base, tmp_path / "hand", changed)
    quiet(hand, tmp_path / "expected", check="off")
    line = quiet(tmp_path / "lora", tmp_path / "made", check=check)
    assert weights(tmp_path / "made") == weights(tmp_path / "expected")
    assert check == "off" or "equal transformers" in line
    quiet(base, tmp_path / "plain", check="off")
    assert weights(tmp_path / "plain") != weights(tmp_path / "made")


def test_adapters_of_a_classifier_on_a_language_model_make_a_reward_model(tmp_path: Path) -> None:
    base = tiny.write("llama", tmp_path / "base")
    products = peft_folders.write(tmp_path / "lora", str(base), LLAMA, task_type="SEQ_CLS", modules_to_save=["score"])
    head = peft_folders.numbers(3, 64, seed=9)
    peft_folders.also(tmp_path / "lora", {"score.weight": head})
    line = quiet(tmp_path / "lora", tmp_path / "made", check="on")
    assert "equal transformers" in line
    tensors = load_file(base / "model.safetensors")
    tensors |= {f"{module}.weight": tensors[f"{module}.weight"] + 2 * product for module, product in products.items()}
    del tensors["lm_head.weight"]
    hand = tmp_path / "hand"
    shutil.copytree(base, hand)
    save_file({**tensors, "score.weight": head}, hand / "model.safetensors")
    config = json.loads((base / "config.json").read_text())
    config |= {"architectures": ["LlamaForSequenceClassification"], "num_labels": 3}
    (hand / "config.json").write_text(json.dumps(config))
    quiet(hand, tmp_path / "expected", check="off")
    assert weights(tmp_path / "made") == weights(tmp_path / "expected")
    assert read_adapters(str(tmp_path / "lora")).config["num_labels"] == 3


@pytest.mark.parametrize("saved", [["model.embed_tokens"], ["lm_head"], ["model.embed_tokens", "lm_head"]])
def test_what_is_trained_of_a_tied_model_parts_embedding_and_head(tmp_path: Path, saved: list[str]) -> None:
    """PEFT trains a copy of the module that is named; the other one stays what the base has."""
    base = tiny.write("qwen2", tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), {}, modules_to_save=saved)
    new = {f"{name}.weight": peft_folders.numbers(83, 64, seed=seed) for seed, name in enumerate(saved)}
    peft_folders.also(tmp_path / "lora", new)
    hand = tmp_path / "hand"
    shutil.copytree(base, hand)
    tensors = load_file(base / "model.safetensors")
    save_file(
        {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone(), **new}, hand / "model.safetensors"
    )
    config = json.loads((base / "config.json").read_text())
    (hand / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    quiet(hand, tmp_path / "expected", check="off")
    quiet(tmp_path / "lora", tmp_path / "made", check="off")
    assert weights(tmp_path / "made") == weights(tmp_path / "expected")


@pytest.mark.parametrize(
    ("settings", "module", "scale"),
    [
        ({}, "model.layers.0.self_attn.q_proj", 2.0),
        ({"use_rslora": True}, "model.layers.0.self_attn.q_proj", 4 / math.sqrt(2)),
        ({"alpha_pattern": {"q_proj": 1}}, "model.layers.0.self_attn.q_proj", 0.5),
        ({"alpha_pattern": {"q_proj": 1}}, "model.layers.0.self_attn.eq_proj", 2.0),
        ({"alpha_pattern": {"^q_proj": 1}}, "model.layers.0.self_attn.q_proj", 2.0),
        ({"rank_pattern": {"layers.0.self_attn.q_proj": 8}}, "model.layers.0.self_attn.q_proj", 0.5),
        ({"alpha_pattern": {"q_proj": 0.5}}, "model.layers.0.self_attn.q_proj", 0.25),
        ({"rank_pattern": {"layers.1.self_attn.q_proj": 8}}, "model.layers.0.self_attn.q_proj", 2.0),
        ({"alpha_pattern": {r"layers\.[01]\..*": 1}}, "model.layers.1.mlp.up_proj", 0.5),
        ({"alpha_pattern": {r"layers\.[01]\..*": 1}}, "model.layers.2.mlp.up_proj", 2.0),
        ({"alpha_pattern": {"(q|v)_proj": 1, ".*": 8}}, "model.layers.0.self_attn.q_proj", 0.5),
        ({"alpha_pattern": {"(q|v)_proj": 1, ".*": 8}}, "model.layers.0.self_attn.eq_proj", 4.0),
        ({"alpha_pattern": {"up_proj|model": 1}}, "model.layers.0.mlp.up_proj", 0.5),
        ({"alpha_pattern": {"(p+)+q": 1}}, "p" * 5000, 2.0),  # has no end in an engine that goes back
    ],
)
def test_scale(tmp_path: Path, settings: dict[str, Any], module: str, scale: float) -> None:
    peft_folders.write(tmp_path / "lora", "/nowhere", {}, **settings)
    assert read_adapters(str(tmp_path / "lora"), "here").scale(module) == scale


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type IA3"),
        ({"bias": "some"}, "bias some"),
        ({"lora_bias": True}, "lora_bias True"),
        ({"modules_to_save": "score"}, "modules_to_save score"),
        ({"modules_to_save": [""]}, "modules_to_save"),
        ({"trainable_token_indices": [1, 1]}, "trainable_token_indices [1, 1]"),
        ({"trainable_token_indices": [-1]}, "trainable_token_indices"),
        ({"trainable_token_indices": [True]}, "trainable_token_indices"),
        ({"trainable_token_indices": {"": [1]}}, "trainable_token_indices"),
        ({"trainable_token_indices": {"wte": [10**400]}}, "trainable_token_indices"),
        ({"trainable_token_indices": {"wte": 4}}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "pissa"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters"),
        ({"a_key_of_tomorrow": 1}, "a_key_of_tomorrow"),
        ({"r": 0}, "r 0"),
        ({"lora_alpha": "4"}, "lora_alpha 4"),
        ({"r": 10**400}, "r 1000"),
        ({"r": 0.5}, "r 0.5"),
        ({"r": 2.5}, "r 2.5"),
        ({"r": True}, "r True"),
        ({"lora_alpha": 10**400}, "lora_alpha 1000"),
        ({"lora_alpha": 10**320}, "lora_alpha 1000"),
        ({"lora_alpha": 1e300}, "lora_alpha 1e+300"),
        ({"rank_pattern": {"a)|(b": 4}}, "rank_pattern"),
        ({"rank_pattern": {r"(a)\1": 4}}, "rank_pattern"),
        ({"rank_pattern": {"(?i)a": 4}}, "rank_pattern"),
        ({"rank_pattern": {"a{,3}": 4}}, "rank_pattern"),
        ({"rank_pattern": {"[[:alpha:]]": 4}}, "rank_pattern"),
        ({"rank_pattern": {"a" * 5000 + "*": 4}}, "rank_pattern"),
        ({"rank_pattern": {"q_proj": 10**400}}, "rank_pattern"),
        ({"rank_pattern": {"q_proj": 0.5}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 10**320}}, "alpha_pattern"),
    ],
)
def test_adapters_that_compute_something_else_are_refused_by_name(
    tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    peft_folders.write(tmp_path / "lora", "/nowhere", {}, **settings)
    with pytest.raises(ConfigError) as error:
        read_adapters(str(tmp_path / "lora"), "here")
    assert error.value.slug == "unsupported-adapters" and words in error.value.found


def test_where_the_base_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    peft_folders.write(tmp_path / "lora", "maker/model", {})
    with pytest.raises(ConfigError) as error:
        read_adapters(str(tmp_path / "lora"))
    assert error.value.slug == "no-base-model" and error.value.next.startswith("quiver ImportModel --folder ")
    assert read_adapters(str(tmp_path / "lora"), "given").base == "given"
    cache = tmp_path / "hub" / "models--maker--model"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text("c0ffee")
    (cache / "snapshots" / "c0ffee").mkdir(parents=True)
    (cache / "snapshots" / "c0ffee" / "config.json").write_text("{}")
    assert read_adapters(str(tmp_path / "lora")).base == str(cache / "snapshots" / "c0ffee")
    (tmp_path / "lora" / "maker" / "model").mkdir(parents=True)
    (tmp_path / "lora" / "maker" / "model" / "config.json").write_text("{}")
    assert read_adapters(str(tmp_path / "lora")).base == str(tmp_path / "lora" / "maker" / "model")


@pytest.mark.parametrize("name", ["m" * 5000, "a/" * 3000, "a\0b", "~\0", "~\ud800", "\ud800"])
def test_a_name_that_no_file_can_have_is_that_of_no_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    peft_folders.write(tmp_path / "lora", name, {})
    with pytest.raises(ConfigError, match="is not on this machine"):
        read_adapters(str(tmp_path / "lora"))
    peft_folders.write(tmp_path / "other", "maker/model", {}, revision="r" * 5000)
    with pytest.raises(ConfigError, match="is not on this machine"):
        read_adapters(str(tmp_path / "other"))


def test_a_revision_never_leaves_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub" / "models--a--b").mkdir(parents=True)
    (tmp_path / "secret").write_text("c0ffee")
    peft_folders.write(tmp_path / "lora", "a/b", {}, revision="../../../secret")
    with pytest.raises(ConfigError, match="is not on this machine"):
        read_adapters(str(tmp_path / "lora"))


def test_adapters_of_another_model_are_refused(tmp_path: Path) -> None:
    base = tiny.write("llama", tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), {"model.layers.7.mlp.up_proj": (96, 64), **LLAMA})
    with pytest.raises(DataError) as error:
        quiet(tmp_path / "lora", tmp_path / "made")
    assert error.value.slug == "wrong-adapters" and "model.layers.7.mlp.up_proj" in error.value.found
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("name", "shape"), [("model.layers.0.mlp.odd.weight", (3,)), ("model.layers.1.input_layernorm.weight", (63,))]
)
def test_a_tensor_of_the_adapters_file_that_does_not_fit_is_looked_for_there(
    tmp_path: Path, name: str, shape: tuple[int, ...]
) -> None:
    base = tiny.write("llama", tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), LLAMA)
    peft_folders.also(tmp_path / "lora", {name: torch.ones(shape)})
    with pytest.raises(DataError) as error:
        quiet(tmp_path / "lora", tmp_path / "made", check="off")
    assert error.value.slug == "wrong-tensors" and name in error.value.found
    assert error.value.where == str(tmp_path / "lora" / "adapter_model.safetensors")


def test_types_that_do_not_go_together_are_looked_for_in_both_places(tmp_path: Path) -> None:
    base = tiny.write("llama", tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), LLAMA)
    peft_folders.also(tmp_path / "lora", {"model.layers.1.input_layernorm.weight": torch.ones(64, dtype=torch.int32)})
    with pytest.raises(DataError, match="wrong type") as error:
        quiet(tmp_path / "lora", tmp_path / "made", check="off")
    assert error.value.where == f"{base}, {tmp_path / 'lora' / 'adapter_model.safetensors'}"


@pytest.mark.parametrize(
    ("name", "shape", "value"),
    [
        ("model.layers.1.mlp.down_proj.lora_B.weight", (64, 2), math.nan),
        ("model.layers.1.mlp.down_proj.lora_B.weight", (64, 2), math.inf),
        ("model.layers.1.mlp.down_proj.lora_B.weight", (64, 2), 3e38),  # is finite; what it adds is not
        ("model.layers.1.input_layernorm.weight", (64,), math.nan),
    ],
)
def test_adapters_that_are_not_finite_are_refused_by_name(
    tmp_path: Path, name: str, shape: tuple[int, ...], value: float
) -> None:
    base = tiny.write("llama", tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), LLAMA)
    peft_folders.also(tmp_path / "lora", {name: torch.full(shape, value)})
    with pytest.raises(DataError, match="not finite") as error:
        quiet(tmp_path / "lora", tmp_path / "made", check="off")
    assert name.removesuffix(".lora_B.weight") in error.value.found and not (tmp_path / "made").exists()
    assert error.value.where == str(tmp_path / "lora" / "adapter_model.safetensors")


def test_adapters_of_whole_numbers_are_refused(tmp_path: Path) -> None:
    base = tiny.write("llama", tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), LLAMA)
    file = tmp_path / "lora" / "adapter_model.safetensors"
    save_file({name: value.to(torch.int32) for name, value in load_file(file).items()}, file)
    with pytest.raises(DataError) as error:
        quiet(tmp_path / "lora", tmp_path / "made")
    assert error.value.slug == "wrong-adapters"


def test_pickled_adapters_of_a_classifier_are_refused_by_name(tmp_path: Path) -> None:
    base = tiny.write("llama", tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), LLAMA, task_type="SEQ_CLS")
    (tmp_path / "lora" / "adapter_model.safetensors").rename(tmp_path / "lora" / "adapter_model.bin")
    with pytest.raises(ConfigError) as error:
        quiet(tmp_path / "lora", tmp_path / "made")
    assert error.value.slug == "no-safetensors"


def test_norms_that_were_trained_are_put_on_the_layers_that_are_there(tmp_path: Path) -> None:
    import transformers

    base = tiny.write("llama", tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), {})
    new = {f"model.layers.{layer}.input_layernorm.weight": torch.full((64,), 2.0 + layer) for layer in range(2)}
    peft_folders.also(tmp_path / "lora", new)
    config = transformers.AutoConfig.from_pretrained(base)
    config.num_hidden_layers = 1
    network = transformers.AutoModelForCausalLM.from_pretrained(base, config=config, dtype=torch.float32)
    AdaptedFolder(read_adapters(str(tmp_path / "lora"))).put_on(network, whole=False)
    assert network.model.layers[0].input_layernorm.weight.unique().tolist() == [2.0]


def test_half_an_adapter_is_refused(tmp_path: Path) -> None:
    base = tiny.write("llama", tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), LLAMA)
    file = tmp_path / "lora" / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if "lora_B" not in name}, file)
    with pytest.raises(DataError) as error:
        quiet(tmp_path / "lora", tmp_path / "made")
    assert error.value.slug == "wrong-adapters" and "lora_B" in error.value.found
