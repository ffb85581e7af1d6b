"""`--model`, its older names, and the settings of templating, read off a command."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from datakit.template import Rendering
from pipelines.cli import invocation
from pipelines.cli.learning import learning_of
from pipelines.cli.references import reference
from pipelines.commands.stages import Train
from pipelines.commands.templated import Answering
from pipelines.graph.backend import backend_of, model_at
from pipelines.graph.plan import Plan
from schemas import SAMPLES
from schemas.errors import ConfigError


def named(model: str = "", policy: str = "") -> SimpleNamespace:
    return SimpleNamespace(model=model, policy=policy, task_family="Generate", example="--model CHECKPOINT")


@pytest.mark.parametrize("given", [("a", ""), ("", "a"), ("a", "a")])
def test_the_model_has_two_names(given: tuple[str, str]) -> None:
    assert reference(named(*given), "policy") == "a"


@pytest.mark.parametrize(
    ("given", "what", "following"),
    [
        (("a", "b"), "--model a and --policy b are the same flag", "Generate --model a"),
        (('{"num_layers": 2}', ""), "the shape of a fresh network is --architecture", "--architecture"),
        (("", ""), "Generate needs --model", " --model CHECKPOINT"),
    ],
)
def test_what_names_no_model_is_refused(
    given: tuple[str, str], what: str, following: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invocation, "_given", ["Generate", "--policy=b", *(["--model", "a"] if given[1] else [])])
    with pytest.raises(ConfigError, match=what) as fault:
        reference(named(*given), "policy")
    assert following in fault.value.next
    assert fault.value.slug == ("bad-setting" if any(given) else "missing-parameter")


def test_a_model_may_be_left_out_where_something_else_will_do() -> None:
    assert reference(named(), "policy", required=False) == ""


class Saying(Answering):
    """A command with settings of its own."""

    def __init__(self, **given: object) -> None:
        vars(self).update({"template": "", "template_options": {}, "date": "", "stop": ()} | given)


def test_settings_of_templating_are_one_rendering() -> None:
    shown = Saying(template="chatml", template_options={"deep": {"a": 1}}, stop=("END", 3)).own_rendering
    assert shown == Rendering(template="chatml", options={"deep": {"a": 1}}, stop=("END", "3"))
    assert Saying().own_rendering == Rendering()


def test_what_is_set_without_use_is_refused_but_for_what_ends_an_answer() -> None:
    Saying(stop=("END",)).nothing_templated("nothing is written")
    with pytest.raises(ConfigError, match="have no use here: nothing is written"):
        Saying(template="chatml").nothing_templated("nothing is written")


def test_flag_and_params_may_agree_but_not_differ() -> None:
    command = Saying(template="chatml")
    assert command.agreed({"template": "chatml", "learn": "all"}) == {"template": "chatml", "learn": "all"}
    assert command.agreed({})["template"] == "chatml"
    with pytest.raises(ConfigError, match="template is given twice: chatml and, in --params, text"):
        command.agreed({"template": "text"})


def test_assignments_and_flags_lie_over_learning() -> None:
    given = {"data": "rows", "learning": {"optim": {"lr": 1.0, "eps": 1e-6}}}
    train = Train(**given, set=("max_steps=5",), lr=3.0, batch_size=8)
    asked = {"optim": {"lr": 3.0, "eps": 1e-6}, "max_steps": 5, "global_batch_size": 8}
    assert learning_of(train) == asked, "max_steps displaces the epochs that are the default"
    with pytest.raises(ConfigError, match=r"optim\.lr is given twice"):
        learning_of(Train(**given, set=("optim.lr=2",), lr=3.0))


def test_an_asynchronous_function_is_refused_before_any_work_by_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asking.py").write_text("import asyncio\n\nasync def score(response):\n    return [1.0]\n")
    node = model_at(Plan(str(tmp_path)), "asking:score", "scorer")
    with pytest.raises(ConfigError, match="asking:score is an async def: called, it returns a coroutine") as caught:
        backend_of(node).takes(node, "scorer", SAMPLES)
    assert caught.value.where.endswith("asking.py, line 3") and "asyncio.run" in caught.value.next
