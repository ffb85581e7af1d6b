"""Settings of one reference: two models of a graph are opened differently, and what changes answers is in the keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from commands import luigi
from toy_backend import Parrot, Server

from datakit.generate import Complete
from datakit.io import Reversal
from datakit.label import Logprobs, Reward
from datakit.op import Op
from datakit.template import Rendering
from pipelines.graph.backend import checkpoint_at, model_at, placement_of
from pipelines.graph.node import Node, asked_key
from pipelines.graph.placement import Placement, parted
from pipelines.graph.plan import Plan
from pipelines.runtime import workers
from pipelines.runtime.resources import resource_of
from pipelines.stages.ask import Reading, ask
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from tests.trainers import toys
from tests.trainers.networks import louder, network, vocabulary
from trainers.engine.checkpoint import checkpoint


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(str(tmp_path / "data"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    checkpoint.save(str(tmp_path / "net"), model=louder(network(**toys.MODEL), 3.0), tokenizer_files=vocabulary(60))
    return tmp_path / "net"


@pytest.mark.parametrize(
    ("reference", "address", "settings"),
    [
        ("./llama,precision=bf16,workers=2", "./llama", ("precision=bf16", "workers=2")),
        ("http://host:8000/v1#llama,concurrency=64", "http://host:8000/v1#llama", ("concurrency=64",)),
        ("./data/step=1/kept-3f2a91c0", "./data/step=1/kept-3f2a91c0", ()),
        ("./a,b=c/d", "./a,b=c/d", ()),
        ("./sweep,lr=1e-5/policy-*", "./sweep,lr=1e-5/policy-*", ()),
        ("./sweep,lr=1e-5/policy-*,workers=2", "./sweep,lr=1e-5/policy-*", ("workers=2",)),
        ("one,two", "one,two", ()),
        ("m:f,workers=", "m:f", ("workers=",)),
    ],
)
def test_settings_stand_behind_a_comma(reference: str, address: str, settings: tuple[str, ...]) -> None:
    assert parted(reference) == (address, settings)


def test_what_lies_under_the_whole_name_has_no_settings(tmp_path: Path) -> None:
    (tmp_path / "net,precision=bf16").mkdir()
    assert parted(f"{tmp_path}/net,precision=bf16") == (f"{tmp_path}/net,precision=bf16", ())


def test_two_servers_of_one_graph_are_asked_differently(plan: Plan) -> None:
    rows = plan.table("rows", Reversal(rows=8, output="demonstrations"))
    default, other = (model_at(plan, f"parrot:x{more}") for more in ("", ",concurrency=9,timeout=2.5"))
    assert placement_of(default) == Parrot.placement == Server(inside=False, concurrency=4)
    assert placement_of(other) == Server(inside=False, concurrency=9, timeout=2.5)
    assert default.task_key == other.task_key and other is model_at(plan, "parrot:x,timeout=2.5,concurrency=9")
    resources = [resource_of("scorer", node, rows.schema) for node in (default, other)]
    assert [resource.concurrency for resource in resources] == [4, 9]
    assert [resource.open().concurrency for resource in resources] == [4, 9]  # type: ignore[attr-defined]
    asked = [ask(plan, "scored", Reward(), rows, node) for node in (default, other)]
    assert asked[0].task_key == asked[1].task_key, "where and how many at a time is in no key"


def test_a_setting_that_changes_answers_is_in_the_key(plan: Plan) -> None:
    rows = plan.table("rows", Reversal(rows=8, output="demonstrations"))
    calm, loud = (model_at(plan, f"parrot:x{more}") for more in ("", ",loud=true"))
    keys = {ask(plan, "scored", Reward(), rows, node).task_key for node in (calm, loud)}
    assert len(keys) == 2 and calm.task_key == loud.task_key
    client: Any = resource_of("generator", loud, rows.schema).open()
    assert client.word == "X"


def test_a_network_is_asked_in_the_precision_of_its_reference(plan: Plan, folder: Path) -> None:
    """In one graph by two operations, and by one that says otherwise; as computed by hand from the opened networks."""
    plain, half = (model_at(plan, f"{folder}{more}") for more in ("", ",precision=bf16"))
    given = toys.tokens(5).drop_columns(["source"])
    tokens = [row.values.to_numpy() for row in given["input_ids"]]

    def answers(node: Node, precision: Any) -> list[Any]:
        model: Any = resource_of("model", node, None, precision).open()
        made: list[Any] = model.logprobs(tokens).to_pylist()
        return made

    fp32, bf16 = answers(plain, "fp32"), answers(plain, "bf16")
    assert fp32 != bf16 == answers(half, "fp32") == answers(half, "bf16")

    def key(node: Node, op: Op) -> str:
        return asked_key("model", node, op.precision)

    one, two = Logprobs(), Logprobs(precision="bf16")
    assert key(plain, one) == key(plain, two) == key(half, two) == plain.task_key != key(half, one)
    as_is = model_at(plan, f"{folder},precision=fp32")
    assert key(as_is, one) == plain.task_key != key(as_is, two) and answers(as_is, "bf16") == fp32
    assert resource_of("model", half, None).content_key == key(half, one)


def test_a_reference_says_how_many_workers_open_it(plan: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = plan.table("rows", Reversal(rows=8, output="demonstrations"))
    model = model_at(plan, f"{folder},workers=2")
    plain = Reading(rendering=Rendering(template="plain"))
    asked = ask(plan, "answers", Complete(), rows, model, reading=plain)
    assert workers.workers_of(asked, 8) == (2, ())
    monkeypatch.setattr(workers, "visible_gpus", lambda: ("0", "1", "2"))
    assert workers.workers_of(asked, 8) == (2, [{"CUDA_VISIBLE_DEVICES": name} for name in "01"])
    other = ask(plan, "others", Complete(), rows, model_at(plan, str(folder)), reading=plain)
    assert other.task_key == asked.task_key and workers.workers_of(other, 8)[0] == 3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("colour=red", "has no colour"),
        ("inside=false", "has no inside"),
        ("precision=fp8", "precision"),
        ("workers=0", "workers 0 is below 1"),
        ("workers=many", "workers"),
        ("workers=1,workers=2", "given twice"),
    ],
)
def test_settings_that_it_cannot_have_are_refused(settings: str, words: str, plan: Plan, folder: Path) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        model_at(plan, f"{folder},{settings}")
    assert caught.value.code == 2 and caught.value.kept == "nothing was started"


def test_weights_that_are_only_read_have_no_settings(plan: Plan, folder: Path) -> None:
    with pytest.raises(ConfigError, match="not asked here"):
        checkpoint_at(plan, f"{folder},precision=bf16")
    assert checkpoint_at(plan, f"{folder},workers=1", asked=True).placement_settings == {"workers": 1}
    with pytest.raises(ConfigError, match=r"timeout 0.0 is not above 0"):
        model_at(plan, "parrot:x,timeout=0")
    assert Placement(gpus=-1).faults() == ["gpus -1 is below 0"]


def test_a_command_asks_as_its_references_say(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "say x"}\n{"prompt": "say y"}\n')
    asked = ("Generate", "--prompts", "prompts.jsonl", "--model")
    made = [
        luigi(tmp_path, *asked, f"parrot:x{more}", module="toy_backend") for more in ("", ",concurrency=2", ",loud=1")
    ]
    assert [done.returncode for done in made[:2]] == [0, 0], made[0].stderr + made[1].stderr
    assert "everything is there already" in made[1].stderr
    assert made[2].returncode == 2 and "loud" in made[2].stderr, "loud is true or false"
    loud = luigi(tmp_path, *asked, "parrot:x,loud=true", module="toy_backend")
    assert loud.returncode == 0 and "another parrot:x" in loud.stderr, loud.stderr
    answers = {
        text
        for done in (made[0], loud)
        for text in Dataset.open(done.stdout.split()[-1]).read()["response"].to_pylist()
    }
    assert answers == {"x say x", "x say y", "X say x", "X say y"}
