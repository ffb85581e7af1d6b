"""Settings with a name of their own: the same task as the settings, wherever an algorithm's name stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from schemas.errors import ConfigError
from schemas.settings import parse
from tests.trainers import toys
from trainers import engine, registry
from trainers.config import Run, training_of

PRESETS = registry.presets()
REST: dict[str, Any] = {"epochs": 1, "global_batch_size": 4, "optim": {"lr": 1e-3}}


def test_what_each_stands_for() -> None:
    expected = {
        "cdpo": ("dpo", {"label_smoothing": 0.1}),
        "dpo_norm": ("dpo", {"average_log_probs": True, "beta": 5.0}),
        "spin": ("dpo", {"beta": 0.1}),
        "reinforce_pp": ("ppo", {"clip_low": 0.2, "clip_high": 0.2, "aggregate": "token"}),
        "rm_scaled": ("rm_margin", {"strength": "scaled"}),
        **{f"rpo_{distance}": ("rpo", {"distance": distance}) for distance in ("sq", "bwd_kl", "fwd_kl")},
    }
    assert {name: PRESETS[name] for name in expected} == expected
    assert not PRESETS.keys() & registry.algorithms().keys()


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_the_task_that_it_spells_out(name: str) -> None:
    algorithm, preset = PRESETS[name]
    named = training_of(name, {**REST, "settings": {}}, seed=0)
    spelled = training_of(algorithm, {**REST, "settings": dict(preset)}, seed=0)
    assert named == spelled and named.learning.op == spelled.learning.op
    assert named.learning.op["name"] == f"train.{algorithm}"
    assert registry.configured(name, {})[1] == registry.configured(algorithm, preset)[1]


def test_what_is_set_besides_goes_over_it() -> None:
    learning = training_of("cdpo", {**REST, "settings": {"beta": 0.5, "label_smoothing": 0.2}}, seed=0).learning
    assert (learning.algorithm, learning.settings) == ("dpo", {"label_smoothing": 0.2, "beta": 0.5})
    with pytest.raises(ConfigError, match="unknown key"):
        registry.configured("cdpo", {"no_such_setting": 1})


def test_a_near_name_is_offered() -> None:
    with pytest.raises(ConfigError, match="did you mean dpo_norm"):
        registry.algorithm_of("dpo_nrm")


def test_a_run_over_a_preset_learns_what_the_settings_do(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    rows = toys.rows_for(registry.algorithms()["dpo"], 5)
    figures = []
    for choice in (
        {"algorithm": "cdpo"},
        {"algorithm": "dpo", "settings": {"label_smoothing": 0.1}},
        {"algorithm": "dpo"},
    ):
        with engine.open(parse(Run, toys.config(tmp_path, data=..., **choice))) as trainer:
            figures.append(trainer.learn(rows)["loss"])
    assert figures[0] == figures[1] != figures[2]
