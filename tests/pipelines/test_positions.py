"""How many positions a model's folder says it has; nothing where no sound number stands there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.graph.positions import positions_in


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


def test_the_checkpoint_goes_before_what_it_was_imported_from(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text('{"max_sequence_length": 1}')
    (tmp_path / "config.json").write_text('{"n_positions": 2}')
    assert positions_in(str(tmp_path)) == 1


def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"n_positions": 2, "n_positions": 3}')
    assert positions_in(str(tmp_path)) is None
