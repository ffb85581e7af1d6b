"""What a model's folder says of its positions and its numbers; nothing where no sound number stands there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.graph.model_files import outputs_in, positions_in, scores_in, vocabulary_in


@pytest.mark.parametrize(
    ("name", "settings", "positions"),
    [
        ("model.json", {"max_sequence_length": 64}, 64),
        ("config.json", {"max_position_embeddings": 128, "n_positions": 7}, 128),
        ("config.json", {"n_positions": 256}, 256),
        ("config.json", {"max_sequence_length": 64}, None),
        ("config.json", {"n_positions": 0}, None),
        ("config.json", {"n_positions": True}, None),
        ("config.json", {"n_positions": "64"}, None),
        ("config.json", [64], None),
        ("other.json", {"n_positions": 64}, None),
    ],
)
def test_one_small_file_says_it(name: str, settings: object, positions: int | None, tmp_path: Path) -> None:
    (tmp_path / name).write_text(json.dumps(settings))
    assert positions_in(str(tmp_path)) == positions == positions_in(f"file://{tmp_path}")


@pytest.mark.parametrize(
    ("name", "settings", "facts", "outputs"),
    [
        ("model.json", {"head": "scalar", "head_size": 1}, {}, ("reward",)),
        ("model.json", {"head": "scalar", "head_size": 2}, {"output_names": ["good", "long"]}, ("good", "long")),
        ("model.json", {"head": "scalar", "head_size": 2}, {"output_names": ["good"]}, ("reward_0", "reward_1")),
        ("model.json", {"head": "lm", "head_size": 1}, {}, ()),
        ("model.json", {"head": "scalar", "head_size": "2"}, {}, ()),
        ("config.json", {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1}, {}, ("reward",)),
        ("config.json", {"architectures": ["LlamaForSequenceClassification"]}, {}, ("reward_0", "reward_1")),
        ("config.json", {"architectures": ["GPT2ForSequenceClassification"], "id2label": {"0": "x"}}, {}, ("reward",)),
        ("config.json", {"architectures": ["LlamaForCausalLM"], "num_labels": 1}, {}, ()),
    ],
)
def test_numbers_have_the_names_that_the_scorer_will_give_them(
    name: str, settings: object, facts: dict[str, object], outputs: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / name).write_text(json.dumps(settings))
    assert outputs_in(str(tmp_path), facts) == outputs
    assert scores_in(str(tmp_path)) is (settings.get("head", "scalar") == "scalar" and "CausalLM" not in str(settings))


@pytest.mark.parametrize(
    ("settings", "scores", "ids"),
    [({}, None, None), ({"architectures": []}, None, None), ({"vocab_size": 9}, None, 9),
     ({"vocab_size": 0}, None, None), ({"architectures": ["LlamaForCausalLM"], "vocab_size": "9"}, False, None)],
)  # fmt: skip
def test_what_no_file_says_is_not_known(
    settings: dict[str, object], scores: bool | None, ids: int | None, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert (scores_in(str(tmp_path)), vocabulary_in(str(tmp_path))) == (scores, ids)


def test_the_checkpoint_goes_before_what_it_was_imported_from(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"max_sequence_length": 1}')
    (tmp_path / "config.json").write_text('{"n_positions": 2}')
    assert positions_in(str(tmp_path)) == 1


def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_positions": 2, "n_positions": 3}')
    assert positions_in(str(tmp_path)) is None
