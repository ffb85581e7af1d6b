"""PEFT's folders on the command line: one checkpoint, known by the adapters and by their base."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.backends.peft_folder import PeftFolder
from pipelines.graph.backend import checkpoint_at, model_at
from pipelines.graph.external import ImportedModel
from pipelines.graph.plan import Plan
from schemas.errors import ConfigError
from tests.trainers.weights import peft_folders, tiny

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
SHAPES = {"model.layers.0.self_attn.q_proj": (64, 64)}


def changed(file: Path, name: str = "") -> None:
    tensors = load_file(file)
    save_file({key: value + 1 if name in key else value for key, value in tensors.items()}, file)


def test_the_key_is_of_the_adapters_and_of_the_base(tmp_path: Path) -> None:
    base = tiny.write("llama", tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), SHAPES)

    def node() -> ImportedModel:
        made = checkpoint_at(Plan(str(tmp_path / "data")), str(tmp_path / "lora"))
        assert isinstance(made, ImportedModel)
        return made

    first = node()
    assert node().task_key == first.task_key
    assert first.max_sequence_length == 128 and first.has_chat_template and first.output_names == ()
    assert first.tokenizer_folder == str(base)
    assert [PeftFolder().recognises(str(place)) for place in (tmp_path / "lora", base)] == [True, False]
    changed(tmp_path / "lora" / "adapter_model.safetensors")
    second = node()
    changed(base / "model.safetensors", "model.norm")
    third = node()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, tmp_path / "lora" / name)
    assert node().tokenizer_folder == str(tmp_path / "lora")
    assert len({first.task_key, second.task_key, third.task_key, node().task_key}) == 4


def test_adapters_of_a_classifier_are_a_scorer(tmp_path: Path) -> None:
    base = tiny.write("llama", tmp_path / "base")
    peft_folders.write(tmp_path / "lora", str(base), SHAPES, task_type="SEQ_CLS")
    peft_folders.also(tmp_path / "lora", {"score.weight": torch.ones(3, 64)})
    assert len(model_at(Plan(str(tmp_path / "data")), str(tmp_path / "lora"), "scorer").output_names) == 3


def test_a_base_that_is_not_here_is_missed_before_anything_runs(tmp_path: Path) -> None:
    peft_folders.write(tmp_path / "lora", "maker/model", SHAPES)
    with pytest.raises(ConfigError, match="is not on this machine"):
        model_at(Plan(str(tmp_path / "data")), str(tmp_path / "lora"))
