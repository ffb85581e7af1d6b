"""Functions as reward models, and what makes a Hugging Face folder the same folder."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from commands import luigi

from pipelines.backends.hf_folder import check_content, content_digest_of, imported_model
from pipelines.graph.backend import backend_of, model_at
from pipelines.graph.external import ImportedModel
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from schemas import SAMPLES
from schemas.dataset import Dataset
from schemas.errors import ConfigError, IntegrityError

REWARD = """
def brevity(response):
    return [-float(len(text)) for text in response]

def twice(response, scale=2.0):
    return [scale * len(text) for text in response]

def strange(respons):
    return [0.0]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "rewards_of_mine.py").write_text(REWARD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def _function(name: str) -> Node:
    return model_at(Plan("data"), name if ":" in name else f"rewards_of_mine:{name}", "scorer")


def _takes(name: str) -> tuple[str, ...]:
    function = _function(name)
    return backend_of(function).takes(function, "scorer", SAMPLES).names


def test_a_function_takes_the_columns_its_parameters_name(folder: Path) -> None:
    assert _takes("brevity") == _takes("twice") == ("response",)
    with pytest.raises(ConfigError, match="respons") as error:
        _takes("strange")
    assert error.value.code == 2


def test_a_functions_identity_is_its_name_and_its_modules_text(folder: Path) -> None:
    before = _function("brevity").task_key
    assert before != _function("twice").task_key
    assert before == _function("brevity").task_key
    (folder / "rewards_of_mine.py").write_text(REWARD + "\n# changed\n")
    assert before != _function("brevity").task_key


@pytest.mark.parametrize("name", ["rewards_of_mine:absent", "no_such_module:brevity"])
def test_a_function_that_is_not_there_is_refused_before_anything_runs(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError) as error:
        _takes(name)
    assert error.value.slug == "no-function"


def _hugging_face_folder(root: Path, weights: bytes) -> Path:
    root.mkdir()
    (root / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(weights)], "data_offsets": [0, len(weights)]}}).encode()
    (root / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + weights)
    return root


def test_a_folders_content_follows_config_and_weights_and_nothing_else(tmp_path: Path) -> None:
    one = _hugging_face_folder(tmp_path / "one", bytes(100_000))
    two = _hugging_face_folder(tmp_path / "two", bytes(100_000))
    (two / "README.md").write_text("a card")
    (two / ".cache").write_text("x")
    assert content_digest_of(str(one)) == content_digest_of(str(two))
    three = _hugging_face_folder(tmp_path / "three", bytes(99_999) + b"\x01")
    assert content_digest_of(str(one)) != content_digest_of(str(three))
    (one / "config.json").write_text('{"architectures": ["MistralForCausalLM"]}')
    assert content_digest_of(str(one)) != content_digest_of(str(two))


def test_a_folder_that_changed_since_it_was_planned_is_no_model_of_that_key(tmp_path: Path) -> None:
    folder = _hugging_face_folder(tmp_path / "one", bytes(100))
    node = imported_model(Plan(str(tmp_path)), str(folder))
    assert isinstance(node, ImportedModel)
    check_content(node.folder, node.base, node.content_digest)
    (folder / "config.json").write_text('{"architectures": ["MistralForCausalLM"]}')
    with pytest.raises(IntegrityError, match="changed since this run was planned"):
        check_content(node.folder, node.base, node.content_digest)


@pytest.mark.parametrize("text", ["[1", "[]", "nonsense", "\x00"])
def test_a_config_that_is_no_object_is_known_as_the_graph_is_made(text: str, tmp_path: Path) -> None:
    folder = _hugging_face_folder(tmp_path / "one", bytes(100))
    (folder / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="JSON"):
        imported_model(Plan(str(tmp_path)), str(folder))


def test_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a Hugging Face folder"):
        content_digest_of(str(tmp_path))


def test_label_reward_with_a_function_through_the_command(tmp_path: Path) -> None:
    (tmp_path / "rewards_of_mine.py").write_text(REWARD)
    rows = [{"prompt": "Say hello", "response": text} for text in ("hi", "hello there", "good day")]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = luigi(
        tmp_path,
        *("Label", "--data", "answers.jsonl", "--format", "completions", "--op", "reward"),
        *("--reward-model", "rewards_of_mine:brevity"),
        module="pipelines",
    )
    assert done.returncode == 0, done.stderr
    made = Dataset.open(done.stdout.split()[-1])
    labelled = made.read(columns=["response", "reward"])
    assert sorted(labelled["reward"].to_pylist()) == [-11.0, -8.0, -2.0]
    assert pa.types.is_float64(labelled.schema.field("reward").type)
