"""Models of NeMo on the command line: one checkpoint, known by the archive; an iteration that starts from one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import small_model
import torch
import yaml
from commands import ROOT, luigi
from safetensors.torch import load_file

from pipelines.backends.hf_folder import HfFolder
from pipelines.backends.nemo_model import NemoModel
from pipelines.graph.backend import checkpoint_at, model_at
from pipelines.graph.external import ImportedModel
from pipelines.graph.model_check import has_scalar_head
from pipelines.graph.plan import Plan
from schemas.errors import ConfigError
from schemas.store.commit import read_manifest
from schemas.tokenizer import files_identity
from tests.trainers.weights import nemo_archives as nemo

CONFIG = nemo.CONFIGS["llama-2"]
EXAMPLE = ROOT / "docs" / "examples" / "stories"


def written(path: Path, mode: str = "w", seed: int = 0, **changes: Any) -> Path:
    config = CONFIG | changes
    return nemo.archive(path, config, nemo.rank_files(config, nemo.weights(CONFIG, seed)), mode)


def node(path: Path, **given: Any) -> ImportedModel:
    made = checkpoint_at(Plan(str(path.parent / "data")), str(path), **given)
    assert isinstance(made, ImportedModel)
    return made


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_the_key_is_of_the_archive(tmp_path, mode):
    first = node(written(tmp_path / "m.nemo", mode))
    assert node(tmp_path / "m.nemo").task_key == first.task_key
    assert first.max_sequence_length == 64 and first.output_names == () and not first.has_chat_template
    assert first.tokenizer_id == files_identity({"tokenizer.json": nemo.tokenizer_file().decode()})
    again = node(written(tmp_path / "m.nemo", mode, seed=1))
    other = node(written(tmp_path / "m.nemo", mode, encoder_seq_length=32, max_position_embeddings=32))
    assert other.max_sequence_length == 32 and len({first.task_key, again.task_key, other.task_key}) == 3


def test_what_is_one(tmp_path):
    places = [written(tmp_path / "m.nemo"), nemo.second_folder(tmp_path / "second", CONFIG, nemo.weights(CONFIG))]
    assert [NemoModel().recognises(str(place)) for place in (*places, tmp_path, tmp_path / "none.nemo")] == [
        *(True, True, False, False)
    ]
    assert not any(HfFolder().recognises(str(place)) for place in places)
    assert node(places[1]).max_sequence_length == 64


def test_a_hugging_face_folder_stays_one(tmp_path):
    small_model.write(tmp_path / "m")
    (tmp_path / "m" / "model_config.yaml").write_text("a: 1\n")
    assert HfFolder().recognises(str(tmp_path / "m")) and not NemoModel().recognises(str(tmp_path / "m"))


def test_a_reward_model_is_a_scorer_before_it_is_read(tmp_path):
    source = written(tmp_path / "m.nemo", reward_model_type="regression", regression={"num_attributes": 9})
    scorer = model_at(Plan(str(tmp_path / "data")), str(source), "scorer")
    assert len(scorer.output_names) == 9 and has_scalar_head(scorer)


def test_a_tokenizer_that_is_only_named_is_asked_for_before_anything_runs(tmp_path):
    source = written(tmp_path / "m.nemo", tokenizer={"library": "huggingface", "type": "meta-llama/Llama-2-7b"})
    with pytest.raises(ConfigError) as refused:
        node(source)
    assert refused.value.slug == "no-tokenizer" and "--tokenizer" in refused.value.render()


@pytest.fixture
def stories(shared_data: Path, tmp_path: Path) -> Path:
    """The example's folder with its model as an archive of NeMo: two tensor ranks, a tokenizer of SentencePiece."""
    model = shared_data / "model-stories260k" / "hf"
    if not model.is_dir():
        pytest.skip("the model of the example is not here")
    for path in EXAMPLE.iterdir():
        shutil.copy(path, tmp_path)
    settings = tmp_path / "luigi.cfg"
    settings.write_text(settings.read_text().replace("policy = stories260k", "model = stories.nemo"))
    config = nemo.CONFIGS["llama-2"] | {
        "num_layers": 5, "hidden_size": 64, "num_attention_heads": 8, "num_query_groups": 4, "ffn_hidden_size": 172,
        "encoder_seq_length": 512, "max_position_embeddings": 512, "share_embeddings_and_output_weights": True,
        "tokenizer": {"library": "sentencepiece", "type": None, "model": "nemo:ab12_tokenizer.model"},
    }  # fmt: skip
    files = nemo.rank_files(config, megatron(load_file(model / "model.safetensors")), tensor=2)
    files["ab12_tokenizer.model"] = (model / "tokenizer.model").read_bytes()
    nemo.archive(tmp_path / "stories.nemo", config, files, "w:gz")
    return tmp_path


def megatron(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A Llama's weights as NeMo's converter names and joins them: of each group its query heads, its key, its value."""
    ours = {
        "embedding.word_embeddings.weight": theirs["model.embed_tokens.weight"],
        "decoder.final_layernorm.weight": theirs["model.norm.weight"],
    }
    for layer in range(5):
        old, new = f"model.layers.{layer}.", f"decoder.layers.{layer}."
        q, k, v = (theirs[f"{old}self_attn.{letter}_proj.weight"].reshape(4, -1, 8, 64) for letter in "qkv")
        ours[f"{new}self_attention.linear_qkv.weight"] = torch.cat([q, k, v], dim=1).reshape(-1, 64)
        ours[f"{new}self_attention.linear_proj.weight"] = theirs[f"{old}self_attn.o_proj.weight"]
        gate, up = (theirs[f"{old}mlp.{name}_proj.weight"] for name in ("gate", "up"))
        ours[f"{new}mlp.linear_fc1.weight"] = torch.cat([gate, up])
        ours[f"{new}mlp.linear_fc2.weight"] = theirs[f"{old}mlp.down_proj.weight"]
        ours[f"{new}self_attention.linear_qkv.layer_norm_weight"] = theirs[f"{old}input_layernorm.weight"]
        ours[f"{new}mlp.linear_fc1.layer_norm_weight"] = theirs[f"{old}post_attention_layernorm.weight"]
    return ours


@pytest.mark.slow
def test_an_iteration_starts_from_an_archive_and_its_weights_go_out_unchanged(stories: Path, shared_data: Path) -> None:
    small = ("--prompts-per-iteration", "24", "--samples-per-prompt", "4", "--own-max-new-tokens", "48")
    given = ("RestIteration", "--thresholds", "[0.5]", *small)
    done = luigi(stories, *given, module="pipelines", timeout=600)
    assert done.returncode == 0, done.stderr
    again = luigi(stories, *given, module="pipelines")
    assert again.returncode == 0 and "nothing to do" in again.stderr + again.stdout
    [adopted] = [path.parent for path in stories.rglob("weights") if path.parent.name.startswith("stories-")]
    manifest = read_manifest(str(adopted))
    assert manifest is not None
    facts = manifest.facts
    assert facts["family"] == "llama" and facts["check"] == {"logits": "not compared"}
    out = luigi(stories, "ExportModel", "--model", str(adopted), module="pipelines")
    assert out.returncode == 0, out.stderr
    theirs = load_file(shared_data / "model-stories260k" / "hf" / "model.safetensors")
    ours = load_file(Path(out.stdout.split()[-1]) / "model.safetensors")
    for name, tensor in theirs.items():
        if name != "lm_head.weight":
            assert torch.equal(ours[name], tensor), name


def test_an_unpacked_archive_is_one_too(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "model_config.yaml").write_text(yaml.safe_dump(CONFIG))
    (folder / "0123abcd_tokenizer.json").write_bytes(nemo.tokenizer_file())
    for name, data in nemo.rank_files(CONFIG, nemo.weights(CONFIG)).items():
        (folder / name).write_bytes(data)
    assert node(folder).max_sequence_length == 64 and NemoModel().recognises(str(folder))
