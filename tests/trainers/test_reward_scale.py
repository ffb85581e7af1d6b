"""Mean and spread that a reward model's checkpoint carries: by hand, with the same weights, until it is trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.label import Reward
from datakit.op import Context
from schemas.card import model_card
from schemas.errors import ConfigError, IntegrityError
from schemas.manifest import Parent
from schemas.store.commit import read_manifest
from tests.trainers.networks import louder, network, vocabulary
from trainers.engine.checkpoint import checkpoint
from trainers.engine.inference.frozen import open_scorer
from trainers.engine.weights.measured import with_scale
from trainers.reward_scale import FACT, recorded_scale

ROWS = pa.table({"input_ids": pa.array([[1, 2, 3], [4, 5], [6]], pa.list_(pa.int32()))})
SCALE = {"reward": {"mean": 2.0, "std": 4.0, "count": 8}}


def measured(folder: Path, scale: dict[str, Any] = SCALE, key: str = "k") -> tuple[str, str]:
    """A reward model, and the same with `scale`."""
    plain, made = str(folder / "plain"), str(folder / "made")
    checkpoint.save(plain, model=louder(network(head="scalar")), tokenizer_files=vocabulary(), facts={"mine": "t"})
    rewards = Parent("rewards", str(folder / "rewards"), "0" * 64)
    with_scale(plain, made, scale, rewards=rewards, task_key=key, op={"name": "measure", "version": 1, "params": {}})
    return plain, made


def rewards(place: str, **settings: Any) -> list[float]:
    context = Context(resources={"scorer": open_scorer(place)})
    values: list[float] = Reward(**settings).label(ROWS, context).columns["reward"].to_pylist()  # type: ignore[attr-defined]
    return values


def test_rewards_less_their_mean_over_their_spread(tmp_path: Path) -> None:
    plain, made = measured(tmp_path)
    raw = rewards(plain)
    assert rewards(made) == raw, "nobody asked"
    assert rewards(made, standardize=True) == [(value - 2.0) / 4.0 for value in raw]
    with pytest.raises(ConfigError, match="carries no mean and standard deviation of reward"):
        rewards(plain, standardize=True)


def test_the_weights_are_the_same_files_and_the_manifest_says_of_what(tmp_path: Path) -> None:
    plain, made = map(checkpoint.open_checkpoint, measured(tmp_path))
    assert made.manifest.files == plain.manifest.files and made.weights_digest == plain.weights_digest
    for file in made.manifest.files:
        assert (Path(made.folder) / file.path).samefile(Path(plain.folder) / file.path)
    assert made.manifest.facts == {**plain.manifest.facts, FACT: SCALE}
    assert [(one.name, one.content_digest) for one in made.manifest.parents] == [
        ("checkpoint", plain.manifest.content_digest),
        ("rewards", "0" * 64),
    ]


def test_a_damaged_checkpoint_is_not_published_again(tmp_path: Path) -> None:
    plain, _ = measured(tmp_path)
    (Path(plain) / "model.json").write_text("{}")
    given: dict[str, Any] = {"rewards": Parent("rewards", "r", "0" * 64), "task_key": "other", "op": {}}
    with pytest.raises(IntegrityError, match=r"model\.json is not the file that was published"):
        with_scale(plain, str(tmp_path / "again"), SCALE, **given)
    assert read_manifest(str(tmp_path / "again")) is None


def test_the_card_says_it(tmp_path: Path) -> None:
    _, made = measured(tmp_path)
    manifest = read_manifest(made)
    assert manifest is not None
    assert "| reward | 2 | 4 | 8 |" in model_card("m", manifest, made, {})


@pytest.mark.parametrize(
    "recorded", [None, 3, {"reward": 1}, {"reward": {"mean": 1.0}}, {"reward": {"mean": 0.0, "std": 0.0}}]
)
def test_what_nothing_can_be_divided_by_is_no_scale(recorded: object) -> None:
    assert recorded_scale(recorded) == {}
    assert recorded_scale(SCALE) == {"reward": (2.0, 4.0)}
