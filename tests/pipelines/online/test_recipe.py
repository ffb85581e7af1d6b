"""Online recipes as graphs: what rewards an answer, what a key is made of, what the table says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import toy_backend  # noqa: F401 - registers parrots

from datakit.apply import apply
from datakit.generate import Complete
from datakit.io import Reversal
from pipelines.commands.command import prepare_models
from pipelines.commands.online import Online
from pipelines.graph.node import rows_of
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.makers.online import FitOnline, reference_of
from pipelines.makers.training import Fit
from pipelines.online import config
from pipelines.online.node import OnlineCheckpoint
from pipelines.online.rollouts import _enough
from pipelines.recipes import Grpo, Ppo, Reinforce
from pipelines.report.online import _nothing_learnt, online_table
from pipelines.runtime.tasks import task_of
from pipelines.stages.iteration import Evaluation
from pipelines.stages.online import rewarded, shuffled_prompts
from schemas import Column, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError, DataError, ServiceError
from tests.pipelines import small_model

PROMPTS = [{"prompt": f"What is {n} + 1?", "answer": str(n + 1)} for n in range(40)]


def planned(kind: Any, folder: Path, **settings: Any) -> Online:
    online: Online = kind(**settings).results(Plan(str(folder / "data")))
    return online


def own(folder: Path, prompts: int = 40, **more: Any) -> dict[str, Any]:
    """Settings of `--setup own` over a small model and so many prompts."""
    import luigi

    if not (folder / "model").exists():
        small_model.write(folder / "model")
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS[:prompts]))
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


def test_a_model_that_rewards_is_asked_before_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One that does not answer ends it before a step is made; what a person should know of one is said."""
    dead = planned(Grpo, tmp_path, **own(tmp_path, reward="parrot:dead"), reward_source="model").policy
    with pytest.raises(ServiceError, match="parrot:dead does not answer"):
        prepare_models([dead])
    alive = planned(Grpo, tmp_path, **own(tmp_path, reward="parrot:hello"), reward_source="model").policy
    prepare_models([alive])
    assert "parrot:hello may answer otherwise another time" in capsys.readouterr().err


def test_a_verifier_puts_its_verdict_into_the_reward(tmp_path: Path) -> None:
    """1 where an answer is right; prompts stand in another order than they came in."""
    recipe = Grpo(setup="digits")
    plan = Plan(str(tmp_path / "data"))
    task_setup = recipe.task_setup(plan)
    complete = Complete(sampling=recipe.sampling(8, ()))
    prompts = shuffled_prompts(plan, "here", complete, task_setup, 3)
    ops, models = rewarded(complete, prompts, task_setup, "verifier")
    answers = complete.gives(rows_of(prompts))
    assert [op.gives(answers).names[-2:] for op in ops] == [("reward", "reward_read")] and not models
    assert isinstance(prompts, Table) and (prompts.op.name, prompts.seed) == ("blend.shuffle", 3)


@pytest.mark.parametrize("kind", [Grpo, Ppo])
@pytest.mark.parametrize("model", ["http://127.0.0.1:9/v1#policy", "parrot:hello"])
def test_a_policy_whose_weights_are_elsewhere_is_refused(kind: Any, model: str, tmp_path: Path) -> None:
    given = own(tmp_path, model=model, verifier='{"kind": "number"}')
    with pytest.raises(ConfigError, match="has no weights here, and a policy that learns online draws") as caught:
        planned(kind, tmp_path, **given)
    error = caught.value
    assert (error.slug, error.next, error.kept) == ("wrong-kind", "--own-model FOLDER", "nothing was started")
    assert error.expected and error.found


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


@pytest.mark.parametrize("kind", [Grpo, Reinforce, Ppo])
def test_a_step_asks_no_more_prompts_than_there_are(
    kind: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of eight prompts one is held out, now and when they are there: the same run, and what it does is said."""
    given = own(tmp_path, prompts=8, reward="judges:letters")
    online = planned(kind, tmp_path, **given)
    assert (online.policy.step.prompts, online.policy.training.learning.global_batch_size) == (7, 56)
    train = online.task_setup.prompts
    apply_all(train)
    again = planned(kind, tmp_path, **given)
    assert again.task_setup.prompts.manifest() is not None and again.policy.task_key == online.policy.task_key
    with pytest.raises(ConfigError, match="7 prompts to learn from are less than --prompts-per-step 8") as caught:
        planned(kind, tmp_path, **given, prompts_per_step=8)
    assert caught.value.next == "--prompts-per-step 7" and caught.value.slug == "too-few-prompts"
    planned(kind, tmp_path, **given, prompts_per_step=7)
    recipe = kind(**given)
    recipe.graph = again
    recipe.before()
    assert "every step asks all 7 prompts that there are" in capsys.readouterr().err


def apply_all(node: Any) -> None:
    """Make a table and all that it is made of, where they belong."""
    for one in node.ancestors():
        if isinstance(one, Table):
            places = [Dataset.open(given.url) for given in one.inputs]
            apply(one.op, places, one.url, seed=one.seed, task_key=one.task_key, processes=1)


@pytest.mark.parametrize("kind", [Grpo, Reinforce])
def test_one_answer_to_a_prompt_is_refused_where_it_is_held_against_others(kind: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--samples-per-prompt 1 nothing can be learnt") as caught:
        planned(kind, tmp_path, samples_per_prompt=1)
    assert caught.value.next == "--samples-per-prompt 2"
    assert planned(Ppo, tmp_path, samples_per_prompt=1).policy.step.prompts == 64, "a critic holds them against itself"


def test_prompts_that_were_set_aside_are_missed_at_the_first_step(tmp_path: Path) -> None:
    prompts = apply(Reversal(rows=3, output="prompts"), [], str(tmp_path / "prompts"))
    with pytest.raises(DataError, match="a step asks 4 prompts, and 3 are left") as caught:
        _enough(prompts, 4)
    assert caught.value.next == "--prompts-per-step 3"
    _enough(prompts, 3)


LOGS = [
    ([{"reward": 0.0, "equal_groups": 1.0, "grad_norm": 0.0}] * 2, "rewards taught nothing"),
    ([{"reward": 0.0, "equal_groups": 0.5, "grad_norm": 1.0}, {"reward": 0.0, "equal_groups": 1.0}], ""),
    ([{"reward": 1.0, "grad_norm": 0.0}] * 2, "nothing was learnt"),
    ([], ""),
]


@pytest.mark.parametrize(("steps", "note"), LOGS)
def test_a_run_that_had_nothing_to_learn_from_says_so(steps: list[dict[str, float]], note: str) -> None:
    notes = [*_nothing_learnt(steps)]
    assert [one.split(":")[0] for one in notes] == [note] * bool(note)


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
    figures = {
        "before": {"correct.mean": 0.5},
        "after": {"correct.mean": 0.875, "reward.mean": 2.0, "reward.count": 3.0},
    }
    monkeypatch.setattr("pipelines.report.online.metrics", lambda node: figures[node])
    before, after = (Evaluation(online.before.answers, name) for name in figures)  # type: ignore[arg-type]
    [row] = online_table("title", online.policy, before, after).records()
    assert (row["reward"], row["gold before"], row["gold after"]) == ((0.25, 0.75), 0.5, 0.875)
    assert row["held-out reward"] == (None, 2.0) and row["steps"] is None
    assert row["held-out prompts"] == 3


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_rollouts_that_were_lost_are_told_where_a_run_goes_on(
    spoil: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node, kind = planned(Grpo, tmp_path).policy, Schema("numbers", 1, (Column("n", pa.int64(), "a number"),))
    paths = SimpleNamespace(paths=SimpleNamespace(folder=tmp_path / "run"))
    monkeypatch.setattr(type(node), "placed", lambda self: paths)
    monkeypatch.setattr(Fit, "make", lambda self, node, stage: "2 steps")
    for name in ("step=000001-a", "step=000001-a.answers", "step=000002-b"):
        Dataset.from_arrow(pa.table({"n": [1]}), kind, f"{tmp_path}/run/rollouts/{name}")
    save = tmp_path / "run/saves/step-00000001/_manifest.json"
    save.parent.mkdir(parents=True)
    save.touch()
    task: Any = task_of(node)
    assert task.make(node, None) == "2 steps" and capsys.readouterr().err == ""
    [shard] = (tmp_path / "run/rollouts/step=000001-a.answers").glob("*.parquet")
    spoil(shard)
    task.make(node, None)
    printed = " ".join(capsys.readouterr().err.split())
    assert "warning: 1 dataset of rollouts" in printed and "step=000001-a.answers" in printed and shard.name in printed
    save.unlink()
    task.make(node, None)
    assert capsys.readouterr().err == ""


def test_a_run_knows_what_its_function_was_as_it_was_planned(tmp_path: Path) -> None:
    node = planned(Grpo, tmp_path, **own(tmp_path, reward="judges:letters")).policy
    task: Any = task_of(node)
    task.write(tmp_path / "config.json", node, node.placed())
    scorer: Any = node.models["scorer"]
    assert config.read(str(tmp_path / "config.json")).planned_models == {"scorer": scorer.identity}


def test_a_model_is_asked_as_its_reference_says(tmp_path: Path) -> None:
    plain = planned(Grpo, tmp_path, reward_source="model").policy
    given = own(tmp_path, reward="judges:letters")
    scorer = planned(Grpo, tmp_path, **given).policy.models["scorer"]
    assert reference_of(scorer) == "judges:letters"
    settled = replace(scorer, placement_settings={"workers": 1, "timeout": 2.5})
    assert reference_of(settled) == "judges:letters,workers=1,timeout=2.5"
    assert reference_of(plain.models["tokenizer"]) == plain.tokenizer.url
