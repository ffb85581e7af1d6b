"""The forms in which the same weights come: types, shards, spellings of old and new; and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from datakit.tokenizers.tokenizer import Tokenizer
from schemas.dataset import Attempt
from schemas.errors import DataError, IntegrityError, QuiverError
from schemas.tokenizer import TOKENIZERS, folder_identity, tokenizer_identity
from tests.trainers.networks import words
from tests.trainers.weights import tiny
from trainers.engine.checkpoint import checkpoint
from trainers.engine.checkpoint.stored import Stored
from trainers.engine.megatron import parallel
from trainers.engine.weights.export_hf import export
from trainers.engine.weights.import_hf import import_hf
from trainers.parallel import Parallel
from trainers.tensors import stacks

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")


def quietly(function: Any, source: Path, out: Path, **options: Any) -> Any:
    return function(str(source), str(out), check="off", say=lambda line: None, **options)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: value for file in sorted(folder.glob("*.safetensors")) for name, value in load_file(file).items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_and_shards_keep_every_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    source = tiny.write("qwen3", tmp_path / "source", dtype, max_shard_size="40KB")
    assert len(list(source.glob("*.safetensors"))) > 1
    quietly(import_hf, source, tmp_path / "c")
    quietly(export, tmp_path / "c", tmp_path / "out", max_shard_bytes=30_000)
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert same(tensors(source), tensors(tmp_path / "out"))
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == str(dtype).removeprefix("torch.")
    written = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert written["weight_map"].keys() == tensors(source).keys()


def test_a_checkpoint_is_what_saving_the_network_makes(tmp_path: Path) -> None:
    for name in ("mixtral", "gpt2"):
        made = quietly(import_hf, tiny.write(name, tmp_path / name), tmp_path / f"{name}-c")
        opened = checkpoint.open_checkpoint(str(tmp_path / f"{name}-c"))
        network = checkpoint.load_model(opened, parallel.start(Parallel()))
        again = checkpoint.save(str(tmp_path / f"{name}-again"), model=network)
        assert made.facts["weights_digest"] == again.facts["weights_digest"]
        mine, theirs = (Stored(str(tmp_path / f"{name}-{part}" / "weights")) for part in ("c", "again"))
        wanted = {name: stack.size for name, stack in stacks(opened.model).items()}
        assert {name: mine.size(name) for name in mine.tensors} == wanted
        assert {name: theirs.size(name) for name in theirs.tensors} == wanted
        assert torch.equal(mine.read("decoder.final_layernorm.weight"), theirs.read("decoder.final_layernorm.weight"))


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(tensors(folder)), folder / "model.safetensors")


def stacked(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Mixtral as transformers 5 holds it in memory."""
    out = {name: value for name, value in state.items() if "block_sparse_moe" not in name}
    for layer in range(2):
        here, there = f"model.layers.{layer}.block_sparse_moe.", f"model.layers.{layer}.mlp."
        w1, w2, w3 = ([state[f"{here}experts.{e}.w{n}.weight"] for e in range(4)] for n in (1, 2, 3))
        out[there + "gate.weight"] = state[here + "gate.weight"]
        out[there + "experts.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in zip(w1, w3, strict=True)])
        out[there + "experts.down_proj"] = torch.stack(w2)
    return out


def bare(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """GPT-2 as it was first published: no prefix, the causal masks beside the weights."""
    out = {name.removeprefix("transformer."): value for name, value in state.items()}
    return out | {f"h.{layer}.attn.bias": torch.ones(1, 1, 4, 4) for layer in range(2)}


def with_head(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tied, and the head written all the same; with the rope buffers of old folders."""
    buffers = {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(8) for layer in range(2)}
    return state | {"lm_head.weight": state["model.embed_tokens.weight"].clone(), **buffers}


@pytest.mark.parametrize(("name", "change"), [("mixtral", stacked), ("gpt2", bare), ("qwen2", with_head)])
def test_other_spellings_are_the_same_weights(tmp_path: Path, name: str, change: Any) -> None:
    source = tiny.write(name, tmp_path / "source")
    before = quietly(import_hf, source, tmp_path / "before")
    whole = tensors(source)
    rewrite(source, change)
    after = quietly(import_hf, source, tmp_path / "after")
    assert before.facts["weights_digest"] == after.facts["weights_digest"]
    quietly(export, tmp_path / "after", tmp_path / "out")
    assert same(whole, tensors(tmp_path / "out"))


def test_export_casts_when_asked_and_never_to_infinity(tmp_path: Path) -> None:
    source = tiny.write("llama", tmp_path / "source")
    quietly(import_hf, source, tmp_path / "c")
    quietly(export, tmp_path / "c", tmp_path / "out", dtype="bf16")
    assert same({k: v.bfloat16() for k, v in tensors(source).items()}, tensors(tmp_path / "out"))
    rewrite(source, lambda state: {**state, "model.norm.weight": torch.full((64,), 1e6)})
    quietly(import_hf, source, tmp_path / "large")
    with pytest.raises(DataError, match=r"model\.norm\.weight"):
        quietly(export, tmp_path / "large", tmp_path / "half", dtype="fp16")
    assert not (tmp_path / "half").exists()


def test_another_tokenizer_comes_from_a_folder_or_a_dataset(tmp_path: Path) -> None:
    source = tiny.write("llama", tmp_path / "source")
    own = quietly(import_hf, source, tmp_path / "own")
    assert own.facts["tokenizer"] == folder_identity(str(source))
    (source / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    attempt = Attempt.begin(str(tmp_path / "words"), TOKENIZERS)
    row = {"name": "words", "tokenizer_json": words(80).to_str(), "chat_template": "t", "eos_token": "w1"}
    writer = attempt.shard(0)
    writer.write(pa.Table.from_pylist([{**row, "bos_token": None, "pad_token": None}], schema=TOKENIZERS.arrow))
    dataset = attempt.commit(files=[writer.finish()])
    made = quietly(import_hf, source, tmp_path / "c", tokenizer_from=dataset.url)
    assert made.facts["tokenizer"] == tokenizer_identity(words(80).to_str(), row)
    assert [parent.name for parent in made.parents] == ["tokenizer"]
    carried = checkpoint.open_checkpoint(str(tmp_path / "c")).tokenizer_files()
    assert carried["tokenizer.json"] == row["tokenizer_json"]
    written, generation = (json.loads(carried[name]) for name in ("tokenizer_config.json", "generation_config.json"))
    assert {"chat_template": "t", "eos_token": "w1"}.items() <= written.items()
    assert generation["eos_token_id"] == 2 and "bos_token_id" not in generation
    other = quietly(import_hf, source, tmp_path / "other", tokenizer_from=str(tiny.write("llama", tmp_path / "two")))
    assert other.facts["tokenizer"] == own.facts["tokenizer"]
    quietly(export, tmp_path / "c", tmp_path / "exported")
    for name in ("exported", "c"):
        again = quietly(import_hf, source, tmp_path / f"from-{name}", tokenizer_from=str(tmp_path / name))
        assert again.facts["tokenizer"] == made.facts["tokenizer"], f"{name} has a manifest and is no dataset"


def hub_cache(source: Path, root: Path) -> Path:
    """`source` as a model hub's cache keeps it: every file a link into a folder of blobs."""
    snapshot, blobs = root / "snapshots/rev", root / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, file in enumerate(sorted(source.iterdir())):
        file.rename(blobs / f"{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    return snapshot


def test_a_folder_of_links_is_the_folder_they_lead_to(tmp_path: Path) -> None:
    source = tiny.write("llama", tmp_path / "source", max_shard_size="40KB")
    plain, speaks = quietly(import_hf, source, tmp_path / "plain"), folder_identity(str(source))
    linked = hub_cache(source, tmp_path / "hub")
    again = quietly(import_hf, linked, tmp_path / "again")
    assert plain.facts["weights_digest"] == again.facts["weights_digest"] and plain.facts == again.facts
    assert folder_identity(str(linked)) == speaks != ""
    assert Tokenizer.of_folder(str(linked)).chat_template == "{{ messages }}"
    (linked / "tokenizer.json").unlink()
    (linked / "tokenizer.json").symlink_to("/nowhere")
    with pytest.raises(QuiverError, match="tokenizer"):
        quietly(import_hf, linked, tmp_path / "dangling")


def test_links_in_a_checkpoint_of_ours_are_not_followed(tmp_path: Path) -> None:
    quietly(import_hf, tiny.write("llama", tmp_path / "source"), tmp_path / "c")
    (tmp_path / "c/tokenizer.json").rename(tmp_path / "elsewhere.json")
    (tmp_path / "c/tokenizer.json").symlink_to("../elsewhere.json")
    with pytest.raises(IntegrityError, match="link"):
        folder_identity(str(tmp_path / "c"))
