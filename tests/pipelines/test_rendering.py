"""Template, options, date and stop texts reach every operation that templates, from every command that has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import luigi
import pytest

from datakit.generate import Complete
from datakit.op import Op
from datakit.registry import OPS
from datakit.template import Chat, Fit, Rendering, RewardPrompt
from pipelines.commands import stages
from pipelines.commands.command import Command, written_otherwise
from pipelines.commands.evaluation import Evaluate
from pipelines.graph.node import Node
from pipelines.graph.nodes import Existing, Table
from pipelines.graph.plan import Plan
from pipelines.recipes import RejectionSamplingIteration, RestIteration
from pipelines.stages.ask import Reading, ask
from pipelines.stages.fine_tuning import fine_tuned
from schemas.errors import ConfigError
from schemas.manifest import Manifest

ASKED: dict[str, Any] = {
    "template": "{{ messages }}",
    "template_options": {"enable_thinking": False},
    "date": "2025-02-28",
}
EXPECTED = {"template": "{{ messages }}", "options": {"enable_thinking": False}, "date": "2025-02-28"}


def operations(wanted: Sequence[Node]) -> list[Op]:
    nodes = {id(node): node for last in wanted for node in last.ancestors()}
    return [node.op for node in nodes.values() if isinstance(node, Table)]


def templating(wanted: Sequence[Node]) -> list[dict[str, Any]]:
    return [op.rendering.settings for op in operations(wanted) if op.rendering is not None]


def test_every_command_that_templates(place: Path) -> None:
    goals: list[Command] = [
        stages.Generate(policy="model", prompts="prompts.jsonl", stop=["END"], **ASKED),
        Evaluate(policy="model", prompts="prompts.jsonl", reward_model="judge", stop=["END"], **ASKED),
        stages.Template(data="rows.jsonl", op="chat", tokenizer="model", **ASKED),
        stages.Label(data="rows.jsonl", op="reward", reward_model="judge", **ASKED),
    ]
    for goal, count in zip(goals, (1, 2, 1, 1), strict=True):
        wanted = goal.build(Plan(str(place / "data")))
        assert templating(wanted) == [EXPECTED] * count, type(goal).__name__
        stops = {op.sampling.stop for op in operations(wanted) if isinstance(op, Complete)}
        assert stops == ({("END",)} if "stop" in goal.param_kwargs else set())


@pytest.mark.parametrize("recipe", [RestIteration, RejectionSamplingIteration])
def test_every_text_of_a_recipe(place: Path, recipe: type[Any]) -> None:
    given = recipe(iteration=2, setup="digits", stop=["END"], **ASKED)
    rendered = templating(given.targets)
    assert len(rendered) > 8 and all(one == EXPECTED for one in rendered)
    assert {op.sampling.stop for op in operations(given.targets) if isinstance(op, Complete)} == {("END",)}


def test_the_date_of_the_configuration_is_the_usual_one(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = luigi.configuration.get_config()
    before = config.get("quiver", "date", "")
    try:
        config.set("quiver", "date", "2020-02-02")
        given: dict[str, Any] = {"data": "rows.jsonl", "op": "chat", "tokenizer": "model"}
        dates = [{}, {"date": "2021-01-01"}, {"params": {"date": "2022-01-01"}}]
        renderings = [templating(stages.Template(**given, **date).build(Plan("data"))) for date in dates]
        assert [one["date"] for (one,) in renderings] == ["2020-02-02", "2021-01-01", "2022-01-01"]
        config.set("quiver", "date", "2020-02-30")
        with pytest.raises(ConfigError, match="2020-02-30 is not a date") as fault:
            stages.Template(**given).build(Plan("data"))
        assert (fault.value.slug, fault.value.where) == ("bad-setting", "[quiver] date")
    finally:
        config.set("quiver", "date", before)


@pytest.fixture
def dated() -> Iterator[None]:
    """A date in the configuration."""
    config = luigi.configuration.get_config()
    before = config.get("quiver", "date", "")
    config.set("quiver", "date", "2020-02-02")
    yield
    config.set("quiver", "date", before)


OTHERS = [name for name, kind in OPS.items() if name.startswith("template.") and kind not in (Chat, RewardPrompt, Fit)]

NEEDED: dict[str, dict[str, Any]] = {
    "template.few_shot": {"count": 2},
    "template.question": {"answers": ["first", "second"]},
    "template.turns": {"turns": [{"role": "user", "content": "{response}"}]},
}
"""Settings without which an operation is none."""


@pytest.mark.usefixtures("dated")
@pytest.mark.parametrize("name", OTHERS)
def test_settings_of_templating_reach_no_operation_that_has_none(name: str) -> None:
    """The date of the configuration is for those that write one; of the command's own words none is dropped."""
    given: dict[str, Any] = {"data": "rows.jsonl", "tokenizer": "model", "op": name}
    params = NEEDED.get(name, {})
    assert stages.Template(**given).operation(name, params) == OPS[name].of(params)
    assert not {"options", "date"} & {*OPS[name].of(params).params()}
    for words in ({"template": "chatml"}, {"template_options": {"a": 1}}, {"date": "2021-01-01"}):
        with pytest.raises(ConfigError, match=f"have no use here: {name} has no such settings"):
            stages.Template(**given, **words).operation(name, params)


@pytest.mark.usefixtures("dated")
def test_the_date_of_the_configuration_reaches_every_operation_that_writes_one() -> None:
    given: dict[str, Any] = {"data": "rows.jsonl", "tokenizer": "model"}
    for name, params in (("chat", {}), ("reward_prompt", {}), ("fit", {"max_length": 9})):
        op: Any = stages.Template(op=name, **given).operation(name, params)
        assert op.date == "2020-02-02", name


def test_what_is_given_twice_or_for_nothing_is_refused(place: Path) -> None:
    given: dict[str, Any] = {"data": "rows.jsonl", "tokenizer": "model", "op": "chat"}
    twice = stages.Template(**given, template="plain", params={"template": "chatml"})
    with pytest.raises(ConfigError, match="template is given twice"):
        twice.build(Plan("data"))
    same = stages.Template(**given, template="plain", params={"template": "plain"})
    assert templating(same.build(Plan("data")))[0]["template"] == "plain"
    length = {"op": "length", "params": {"column": "response"}}
    with pytest.raises(ConfigError, match="have no use here"):
        stages.Label(data="rows.jsonl", date="2025-01-01", **length).build(Plan("data"))
    assert stages.Label(data="rows.jsonl", **length).build(Plan("data"))


def test_the_template_a_policy_was_trained_with_is_the_usual_one_before_it_is_made_and_after(place: Path) -> None:
    given = RestIteration(setup="digits", **ASKED)
    plan, task, policy = Plan("data"), given.graph.task_setup, given.graph.task_setup.policy
    facts = {"template": {"name": ASKED["template"], "source": ASKED["template"], "options": EXPECTED["options"]}}
    facts |= {"tokenizer": policy.tokenizer_id}
    manifest = Manifest(kind="checkpoint", task_key=policy.task_key, facts=facts)
    made = Existing(label="policy", root="data", place="data/policy", existing_manifest=manifest)
    learnt = {**EXPECTED, "date": None}
    for model in (policy, made):
        assert model.trained_template.facts == {"template": facts["template"]}
        asked = [
            ask(plan, f"{type(model).__name__}/{n}", Complete(), task.prompts, model, reading=Reading(rendering=one))
            for n, one in enumerate([Rendering(), Rendering(template="plain"), Rendering(options={"more": 1})])
        ]
        texts = [one.inputs[0].inputs[0].op.rendering.settings for one in asked]  # type: ignore[attr-defined]
        own = {"template": "plain", "options": {}, "date": None}
        assert texts == [learnt, own, {**learnt, "options": {**EXPECTED["options"], "more": 1}}]
        assert [bool(written_otherwise(one)) for one in asked] == [False, True, True]
    same = [ask(plan, "answers", Complete(), task.prompts, model).task_key for model in (policy, made)]
    assert same[0] == same[1]


def test_what_a_policy_learns_next_is_written_as_it_learnt_before(place: Path) -> None:
    graph = RestIteration(setup="digits", **ASKED).graph
    plain = RestIteration(setup="digits").graph.task_setup
    policy = fine_tuned(Plan("data"), "next", plain, graph.steps[0].kept[0], graph.task_setup.policy, 0, 0.0)
    assert (
        policy.trained_template == graph.task_setup.policy.trained_template
        and policy.trained_template.name == ASKED["template"]
    )
    assert not plain.policy.trained_template.facts
