"""Online recipes as graphs: what rewards an answer, what a key is made of, what the table says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datakit.generate import Complete
from pipelines.commands.online import Online
from pipelines.graph.node import rows_of
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.makers.online import FitOnline, reference_of
from pipelines.online.node import OnlineCheckpoint
from pipelines.recipes import Grpo, Reinforce
from pipelines.report.online import online_table
from pipelines.runtime.tasks import task_of
from pipelines.stages.iteration import Evaluation
from pipelines.stages.online import rewarded, shuffled_prompts
from schemas.errors import ConfigError
from tests.pipelines import small_model

PROMPTS = [{"prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(40)]


def planned(kind: Any, folder: Path, **settings: Any) -> Online:
    online: Online = kind(**settings).results(Plan(str(folder / "data")))
    return online


def own(folder: Path, **more: Any) -> dict[str, Any]:
    """Settings of `--setup own` over a small model."""
    import luigi

    if not (folder / "model").exists():
        small_model.write(folder / "model")
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    given = {"model": folder / "model", "prompts": folder / "prompts.jsonl", "max_new_tokens": 8, **more}
    for name, value in given.items():
        luigi.configuration.get_config().set("own", name, value if isinstance(value, str) else str(value))
    return {"setup": "own"}


@pytest.fixture(autouse=True)
def nothing_configured() -> Any:
    import luigi

    yield
    luigi.configuration.get_config().remove_section("own")


def rewarding(online: Online) -> tuple[list[str], dict[str, str]]:
    """Operations behind the draw, and the models that they ask."""
    models = {name: model.kind for name, model in online.policy.models.items()}
    return [op.name for op in online.policy.step.answers[1:]], models


def test_what_rewards_an_answer(tmp_path: Path) -> None:
    assert rewarding(planned(Grpo, tmp_path)) == (["label.verify"], {})
    reading = ["template.reward_prompt", "tokenize.encode", "label.reward"]
    asked = {"scorer": "checkpoint", "tokenizer": "dataset"}
    assert rewarding(planned(Grpo, tmp_path, reward_source="model")) == (reading, asked)
    assert rewarding(planned(Reinforce, tmp_path, **own(tmp_path, verifier='{"kind": "number"}')))[0] == [
        "label.verify"
    ]
    both = own(tmp_path, reward="judges:letters")
    assert rewarding(planned(Reinforce, tmp_path, **both, reward_source="model")) == (
        ["label.reward"],
        {"scorer": "function"},
    )


def test_a_verifier_puts_its_verdict_into_the_reward(tmp_path: Path) -> None:
    """1 where an answer is right; prompts stand in another order than they came in."""
    recipe = Grpo(setup="digits")
    plan = Plan(str(tmp_path / "data"))
    task_setup = recipe.task_setup(plan)
    complete = Complete(sampling=recipe.sampling(8, ()))
    prompts = shuffled_prompts(plan, "here", complete, task_setup, 3)
    ops, models = rewarded(complete, prompts, task_setup, by_model=False)
    answers = complete.gives(rows_of(prompts))
    assert [op.gives(answers).names[-2:] for op in ops] == [("reward", "reward_read")] and not models
    assert isinstance(prompts, Table) and (prompts.op.name, prompts.seed) == ("blend.shuffle", 3)


def test_without_a_reward_nothing_is_planned(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the setup own has no reward") as caught:
        planned(Grpo, tmp_path, **own(tmp_path))
    assert caught.value.next.startswith("--own-verifier")
    given = own(tmp_path, reward="judges:letters")
    with pytest.raises(ConfigError, match="the setup own has no verifier") as caught:
        planned(Grpo, tmp_path, **given, reward_source="verifier")
    assert caught.value.next == "--reward-source model"


def test_a_key_is_made_of_all_that_decides_the_weights(tmp_path: Path) -> None:
    plain = planned(Grpo, tmp_path).policy
    changes: list[dict[str, Any]] = [
        {"prompts_per_step": 32},
        {"samples_per_prompt": 4},
        {"temperature": 0.9},
        {"scale": "none"},
        {"reward_source": "model"},
        {"set": ["max_steps=61"]},
        {"algorithm": "ppo"},
        {"algorithm": "ppo", "set": ["global_batch_size=256"]},
        {"seed": 7},
    ]
    keys = [planned(Grpo, tmp_path, **change).policy.task_key for change in changes]
    assert len({plain.task_key, *keys}) == 1 + len(changes)
    assert planned(Grpo, tmp_path, set=["save_every=5"]).policy.task_key == plain.task_key
    assert isinstance(plain, OnlineCheckpoint) and isinstance(task_of(plain), FitOnline)


@pytest.mark.parametrize(("rows", "updates"), [(512, 1), (256, 2), (128, 4), (500, 1)])
def test_a_smaller_batch_makes_several_updates_of_a_step(rows: int, updates: int, tmp_path: Path) -> None:
    made = planned(Grpo, tmp_path, algorithm="ppo", set=[f"global_batch_size={rows}"]).policy
    assert (made.step.prompts, made.step.updates) == (64, updates)


def test_the_table_has_the_first_and_the_last_reward(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    online = planned(Grpo, tmp_path)
    log = Path(f"{online.policy.url}.run") / "metrics.jsonl"
    log.parent.mkdir(parents=True)
    lines: list[dict[str, float]] = [
        {"step": 1, "reward": 0.25},
        {"step": 2, "val_x": 1.0},
        {"step": 2, "reward": 0.75},
    ]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = {"before": {"correct.mean": 0.5}, "after": {"correct.mean": 0.875, "reward.mean": 2.0}}
    monkeypatch.setattr("pipelines.report.online.metrics", lambda node: figures[node])
    before, after = (Evaluation(online.before.answers, name) for name in figures)  # type: ignore[arg-type]
    [row] = online_table("title", online.policy, before, after).records()
    assert (row["reward"], row["gold before"], row["gold after"]) == ((0.25, 0.75), 0.5, 0.875)
    assert row["held-out reward"] == (None, 2.0) and row["steps"] is None


def test_a_model_is_asked_as_its_reference_says(tmp_path: Path) -> None:
    plain = planned(Grpo, tmp_path, reward_source="model").policy
    given = own(tmp_path, reward="judges:letters")
    scorer = planned(Grpo, tmp_path, **given).policy.models["scorer"]
    assert reference_of(scorer) == "judges:letters"
    settled = replace(scorer, placement_settings={"workers": 1, "timeout": 2.5})
    assert reference_of(settled) == "judges:letters,workers=1,timeout=2.5"
    assert reference_of(plain.models["tokenizer"]) == plain.tokenizer.url
