"""What is not supported is refused by name, hostile folders too, and nothing is left behind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file

from schemas.errors import ConfigError, ConflictError, DataError, IntegrityError, QuiverError
from tests.trainers.networks import SMALL, words
from tests.trainers.weights import tiny
from trainers import adopt as command
from trainers.architecture import Experts, ModelConfig
from trainers.engine.weights import registry
from trainers.engine.weights.export_hf import export
from trainers.engine.weights.import_hf import import_hf
from trainers.engine.weights.tensorfile import TensorFile

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    **{name: size for name, size in tiny.SIZES.items() if name != "head_dim"},
}
QWEN = {**LLAMA, "architectures": ["Qwen2ForCausalLM"]}
MIXTRAL = {**LLAMA, "architectures": ["MixtralForCausalLM"]}
REWARD = {**LLAMA, "architectures": ["LlamaForSequenceClassification"]}
NEMOTRON = {**LLAMA, "architectures": ["NemotronForCausalLM"]}
GPT2 = {**tiny.GPT2, "architectures": ["GPT2LMHeadModel"]}


def read(config: dict[str, Any]) -> ModelConfig:
    return registry.of_config(config, "config.json").model(config, "config.json")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({**LLAMA, "hidden_act": "gelu"}, "hidden_act gelu"),
        ({**LLAMA, "attention_bias": True}, "attention_bias True with mlp_bias False"),
        ({**LLAMA, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type linear"),
        ({**LLAMA, "rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "rope_type yarn"),
        ({**LLAMA, "rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor is missing"),
        ({**LLAMA, "rope_parameters": {"rope_type": "default", "mscale": 1.0}}, "rope key mscale"),
        ({**LLAMA, "rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta says rope_theta 10000.0"),
        ({**LLAMA, "partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({**LLAMA, "auto_map": {"AutoModel": "evil.Model"}}, "auto_map"),
        ({**LLAMA, "quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({**LLAMA, "attention_sinks": 4}, "attention_sinks is a key that is not known"),
        ({**LLAMA, "hidden_size": "64"}, "hidden_size 64 is not a number"),
        ({k: v for k, v in LLAMA.items() if k != "vocab_size"}, "vocab_size is missing"),
        ({**LLAMA, "is_encoder_decoder": True}, "is_encoder_decoder True"),
        ({**LLAMA, "num_attention_heads": 3}, "divide"),
        ({**QWEN, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "in some layers only"),
        ({**QWEN, "architectures": ["Qwen3ForCausalLM"], "attention_bias": True}, "attention_bias True"),
        ({**QWEN, "architectures": ["MixtralForCausalLM"], "router_jitter_noise": 0.1}, "router_jitter_noise 0.1"),
        ({**NEMOTRON, "hidden_act": "silu"}, "hidden_act silu"),
        ({**NEMOTRON, "rope_percent": 0.25}, "rope_percent 0.25"),
        ({**GPT2, "activation_function": "gelu"}, "activation_function gelu"),
        ({**GPT2, "scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
        ({**LLAMA, "architectures": ["LlamaModel"]}, "LlamaModel"),
        ({**LLAMA, "architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM"),
        ({**LLAMA, "architectures": None}, "None"),
        ({**LLAMA, "architectures": [{}]}, "architectures with one of"),
        ({**LLAMA, "num_hidden_layers": 10**9}, "num_layers 1000000000 is above 2048"),
        ({**QWEN, "num_hidden_layers": 10**9}, "num_layers 1000000000 is above 2048"),
        ({**GPT2, "n_positions": 10**12}, "max_sequence_length 1000000000000 is above"),
        ({**LLAMA, "vocab_size": 10**400}, "vocab_size"),
        ({**LLAMA, "rms_norm_eps": 10**400}, "rms_norm_eps"),
        ({**LLAMA, "rms_norm_eps": float("nan")}, "rms_norm_eps nan is out of range"),
        ({**LLAMA, "rope_theta": float("inf")}, "rope_theta inf is out of range"),
        ({**LLAMA, "rope_theta": 0}, "rope_base 0.0 is not in"),
        ({**LLAMA, "rope_scaling": {**tiny.LLAMA3, "factor": 1e300}}, "factor 1e+300 is out of range"),
        ({**MIXTRAL, "num_local_experts": 10**9}, "experts.number 1000000000 is above"),
        ({**REWARD, "num_labels": 10**9}, "head_size 1000000000 is above"),
        ({**REWARD, "num_labels": "3"}, "num_labels 3 is not a number"),
        ({**REWARD, "id2label": 3}, "id2label 3 is no object"),
        ({**QWEN, "use_sliding_window": True, "max_window_layers": "a"}, "max_window_layers a is not a number"),
        ({**QWEN, "layer_types": "full_attention"}, "layer_types full_attention is no list"),
        ({**QWEN, "layer_types": ["full_attention"]}, "layer_types"),
        ({**QWEN, "layer_types": ["full_attention", "chunked_attention"]}, "layer_types"),
    ],
)
def test_a_setting_that_is_not_supported_is_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(config)
    assert message in error.value.render()


def test_all_faults_of_a_config_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        read({**LLAMA, "hidden_act": "gelu", "strange": 1, "rope_scaling": {"type": "dynamic"}})
    assert all(name in error.value.what for name in ("hidden_act", "strange", "dynamic"))


def test_a_config_of_a_million_unknown_keys_is_reported_in_a_few_lines() -> None:
    with pytest.raises(ConfigError) as error:
        read({**LLAMA, **{f"k{number}": number for number in range(100_000)}})
    assert len(error.value.render()) < 5000 and "and 99960 more" in error.value.what


@pytest.mark.parametrize(
    ("keys", "window"),
    [
        ({"use_sliding_window": True, "max_window_layers": 0}, 4096),
        ({"use_sliding_window": True, "max_window_layers": 0, "sliding_window": None}, None),
        ({"use_sliding_window": True, "max_window_layers": 0, "sliding_window": 7}, 7),
        ({"use_sliding_window": True, "max_window_layers": -1, "sliding_window": 7}, 7),
        ({"use_sliding_window": True}, None),
        ({"use_sliding_window": True, "layer_types": ["sliding_attention"] * 2}, 4096),
        ({"use_sliding_window": True, "layer_types": ["full_attention"] * 2}, None),
        ({"sliding_window": 7, "max_window_layers": 0}, None),
        ({}, None),
    ],
)
@pytest.mark.parametrize("kind", ["Qwen2", "Qwen3"])
def test_a_window_is_what_transformers_makes_of_the_same_keys(
    keys: dict[str, Any], window: int | None, kind: str
) -> None:
    import transformers

    config = {**LLAMA, "architectures": [f"{kind}ForCausalLM"], **keys}
    assert read(config).window == window
    theirs = getattr(transformers, f"{kind}Config")(**config)
    sliding = set(theirs.layer_types) == {"sliding_attention"}
    assert (theirs.sliding_window if sliding else None) == window


def test_a_folder_that_lacks_all_of_a_great_many_tensors_is_refused_at_once(tmp_path: Path) -> None:
    source = tiny.write("mixtral", tmp_path / "source")
    edit_config(source, num_hidden_layers=2000, num_local_experts=4000)
    began = time.monotonic()
    with pytest.raises(DataError, match="missing") as error:
        import_hf(str(source), str(tmp_path / "out"), check="off", say=lambda line: None)
    assert time.monotonic() - began < 10 and len(error.value.render()) < 5000


def test_the_spellings_of_transformers_4_and_5_are_one_model() -> None:
    scaling = {name: value for name, value in tiny.LLAMA3.items() if name != "rope_theta"}
    old = read({**LLAMA, "rope_theta": 500000.0, "rope_scaling": scaling})
    older = {"type" if name == "rope_type" else name: value for name, value in scaling.items()}
    assert old == read({**LLAMA, "rope_parameters": tiny.LLAMA3})
    assert old == read({**LLAMA, "rope_theta": 500000, "rope_scaling": older})
    assert old.rope_scaling is not None and old.rope_base == 500000.0


def test_a_network_that_no_architecture_computes_is_refused_with_every_reason() -> None:
    gpt_2b = {"normalization": "LayerNorm", "zero_centered_norm": True, "rotary_percent": 0.5, "gated": True}
    with pytest.raises(ConfigError) as error:
        registry.of_model(ModelConfig(**{**vars(SMALL), **gpt_2b}), None)
    assert all(f"not {name}" in error.value.found for name in registry.FAMILIES)
    first = ModelConfig(**{**vars(SMALL), "experts": Experts(number=4, per_token=2, softmax_first=True)})
    with pytest.raises(ConfigError, match="softmax_first"):
        registry.of_model(first, "mixtral")
    with pytest.raises(ConfigError, match="llama"):
        registry.of_model(SMALL, "lama")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write("llama", tmp_path_factory.mktemp("llama") / "llama", max_shard_size="20KB")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}
    change(tensors)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    save_file(tensors, folder / "model.safetensors")


def edit_index(folder: Path, change: Callable[[dict[str, str]], Any]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


def pickled(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")


Q, NORM = "model.layers.1.self_attn.q_proj.weight", "model.norm.weight"
HARMS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda f: edit_tensors(f, lambda t: t.pop(Q)), f"missing: {Q}"),
    "unexpected": (lambda f: edit_tensors(f, lambda t: t.update(odd=torch.zeros(1))), "unexpected: odd"),
    "shape": (lambda f: edit_tensors(f, lambda t: t.update({NORM: torch.ones(3)})), f"{NORM} [3], not [64]"),
    "mixed": (lambda f: edit_tensors(f, lambda t: t.update({Q: t[Q].half()})), "types F16 and F32"),
    "integers": (lambda f: edit_tensors(f, lambda t: t.update({NORM: t[NORM].long()})), "I64"),
    "untied": (lambda f: edit_config(f, tie_word_embeddings=True), "ties the embeddings"),
    "pickled": (pickled, "pytorch_model.bin"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json"),
    "large tokenizer": (lambda f: (f / "tokenizer.json").write_text(words(90).to_str()), "id 89"),
    "bad tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json"),
    "remote tokenizer": (lambda f: (f / "tokenizer_config.json").write_text('{"auto_map": {}}'), "auto_map"),
    "traversal": (lambda f: edit_index(f, lambda m: m.update({Q: "../x.safetensors"})), "elsewhere"),
    "absolute": (lambda f: edit_index(f, lambda m: m.update({Q: "/etc/x.safetensors"})), "elsewhere"),
    "another file": (lambda f: edit_index(f, lambda m: m.update({Q: "x.bin"})), "elsewhere"),
    "no such file": (lambda f: edit_index(f, lambda m: m.update({Q: "x.safetensors"})), "x.safetensors"),
    "index lies": (lambda f: edit_index(f, lambda m: m.update({Q: m[NORM]})), "disagree"),
    "twice": (lambda f: shutil.copy(sorted(f.glob("*.safetensors"))[0], sorted(f.glob("*.safetensors"))[1]), "both"),
    "no config": (lambda f: (f / "config.json").unlink(), "not a Hugging Face folder"),
    "config of two": (lambda f: (f / "config.json").write_text('{"a": 1, "a": 2}'), "given twice"),
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_folder_that_is_not_what_it_says_is_refused(llama: Path, tmp_path: Path, harm: str) -> None:
    folder, (change, message) = tmp_path / "source", HARMS[harm]
    shutil.copytree(llama, folder)
    change(folder)
    with pytest.raises((DataError, ConfigError)) as error:
        import_hf(str(folder), str(tmp_path / "out"), check="off", say=lambda line: None)
    assert message in error.value.render()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["tokenizer_config.json", "generation_config.json", "config.json"])
def test_half_of_a_surrogate_pair_in_a_file_of_a_folder_is_refused(llama: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(llama, tmp_path / "hf")
    file = folder / name
    data = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**data, "note": "a\ud800b"}))
    with pytest.raises(DataError, match="surrogates not allowed"):
        import_hf(str(folder), str(tmp_path / "out"), check="off")
    assert not (tmp_path / "out").exists()


def test_the_process_that_compares_dies_with_its_parent(tmp_path: Path) -> None:
    sleeper = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(300)"
    command = [sys.executable, "-c", sleeper]
    code = f"from trainers.engine.weights import check; check.module = lambda *_, **more: {command!r}; check._run({{}})"
    parent = subprocess.Popen([sys.executable, "-c", code])
    try:
        until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", seconds=60)
    finally:
        parent.kill()
        parent.wait()
    child = int((tmp_path / "pid").read_text())
    until(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE, seconds=5)


def until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.05)


def test_logits_that_differ_leave_nothing_behind(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainers.engine.weights import check

    monkeypatch.setattr(
        check,
        "_run",
        lambda job: {"difference": 0.5, "greatest": 1.0, "tokens": 1, "transformers": "", "beyond": {}, "scores": {}},
    )
    with pytest.raises(DataError, match="logits-differ"):
        import_hf(str(llama), str(tmp_path / "out"), check="on", say=lambda line: None)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_the_one_that_was_named_leaves_nothing_behind(llama: Path, tmp_path: Path) -> None:
    def as_named() -> None:
        assert next((tmp_path / "out").rglob("*.distcp"), None)  # all was read by then
        raise IntegrityError("source-changed", "the model changed")

    with pytest.raises(IntegrityError, match="source-changed"):
        import_hf(str(llama), str(tmp_path / "out"), check="off", as_named=as_named, say=lambda line: None)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[:4],
        lambda data: (1 << 40).to_bytes(8, "little") + data[8:],
        lambda data: data.replace(b'"F32"', b'"F16"', 1),
        lambda data: data.replace(b'"F32"', b'"Q32"', 1),
        lambda data: data.replace(b"[64]", b"[-4]", 1),
        lambda data: data.replace(b"[0,", b"[1,", 1),
        lambda data: data.replace(b'{"', b'["', 1),
    ],
)
def test_a_header_is_not_believed(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(64.0), "b": torch.ones(2, 3)}, path)
    assert torch.equal(TensorFile(str(path)).read("b"), torch.ones(2, 3))
    data = harm(path.read_bytes())
    assert data != path.read_bytes()
    path.write_bytes(data)
    with pytest.raises(DataError, match="safetensors"):
        TensorFile(str(path))


def test_a_place_that_is_taken_is_left_alone(llama: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = import_hf(str(llama), str(out), task_key="k", check="off", say=lambda line: None)
    assert (
        import_hf("/nowhere", str(out), task_key="k", check="off", say=lambda line: None).content_digest
        == first.content_digest
    )
    assert (
        import_hf(str(llama), str(tmp_path / "again"), task_key="k", check="off").content_digest == first.content_digest
    )
    with pytest.raises(ConflictError):
        import_hf(str(llama), str(out), task_key="other", check="off")
    with pytest.raises(QuiverError, match="not a complete checkpoint"):
        export(str(llama), str(tmp_path / "exported"))
    with pytest.raises(QuiverError, match=r"there is no folder .*nowhere"):
        export(str(tmp_path / "nowhere"), str(tmp_path / "exported"))
    assert not (tmp_path / "exported").exists()
    with pytest.raises(ConfigError, match="not a Hugging Face folder"):
        command.main([str(tmp_path), str(tmp_path / "none")])


def test_settings_of_generation_that_no_sampler_of_ours_reads_are_named_once(llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "llama"
    shutil.copytree(llama, folder)
    idle = {"temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.0, "min_p": None, "num_beams": 1}
    lines: dict[str, list[str]] = {}
    for name, more in (("idle", {}), ("asked", {"repetition_penalty": 1.3, "no_repeat_ngram_size": 3})):
        (folder / "generation_config.json").write_text(json.dumps({**idle, **more}))
        import_hf(str(folder), str(tmp_path / name), check="off", say=lines.setdefault(name, []).append)
    unread = {name: [line for line in given if "sampler does not read" in line] for name, given in lines.items()}
    assert not unread["idle"] and len(unread["asked"]) == 1
    assert "repetition_penalty 1.3, no_repeat_ngram_size 3:" in unread["asked"][0]
    carried = json.loads((tmp_path / "asked" / "generation_config.json").read_text())
    assert carried["repetition_penalty"] == 1.3, "an export hands it on"
