"""Ways to reach a model: a third one costs its own file, and the graph adds what each of them reads."""

from __future__ import annotations

import contextlib
import dataclasses
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from commands import luigi
from toy_backend import Parrot, Server

from datakit.apply import apply
from datakit.clients import Sampling
from datakit.generate import Complete
from datakit.io import Jsonl, Reversal
from datakit.label import Attributes, Logprobs, Reward, TopK, Values
from datakit.op import Op
from datakit.template import Chat, Rendering
from datakit.tokenize import Encode, Train
from pipelines.backends import checkpoint as backends_checkpoint
from pipelines.backends.checkpoint import Checkpoint
from pipelines.graph import backend
from pipelines.graph.backend import Backend, Placement, Role, backend_of, backends, model_at, register
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.plan import Plan
from pipelines.runtime import workers
from pipelines.runtime.resources import resource_of
from pipelines.stages.ask import Reading, ask, readable, steps
from pipelines.stages.iteration import tokenized
from schemas import SAMPLES, Schema
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from tests import pages
from tests.pages import ROOT
from tests.trainers.weights import tiny
from trainers.config import training_of

SHAPE = {"num_layers": 1, "hidden_size": 8, "ffn_hidden_size": 8, "num_attention_heads": 1, "num_query_groups": 1}


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(str(tmp_path))


@pytest.fixture
def rows(plan: Plan) -> Table:
    return plan.table("rows", Reversal(rows=8, output="demonstrations"))


@pytest.fixture
def policy(plan: Plan, rows: Table) -> Node:
    tokenizer = plan.table("tokenizer", Train(vocab_size=288), rows)
    training = training_of(
        "sft",
        {"epochs": 1, "global_batch_size": 2, "optim": {"lr": 1e-3}},
        seed=0,
        model={**SHAPE, "max_sequence_length": 32},
    )
    return plan.model("policy", training, data=tokenized(plan, "rows", tokenizer, rows, 32), tokenizer=tokenizer)


def ops(node: Node) -> list[str]:
    """Names of the operations between the rows and `node`."""
    made = []
    while isinstance(node, Table) and node.label != "rows":
        made.append(node.op.name)
        node = node.inputs[0]
    return made[::-1]


# A third backend, by its own file alone


def made(folder: Path, *command: str) -> Dataset:
    done = luigi(folder, *command, module="toy_backend")
    assert done.returncode == 0, done.stderr
    return Dataset.open(done.stdout.split()[-1])


def test_a_third_backend_answers_and_scores_through_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "me"}\n{"prompt": "hello"}\n')
    asked = ("Generate", "--model", "parrot:hello", "--prompts", "prompts.jsonl", "--samples-per-prompt", "2")
    done = luigi(tmp_path, *asked, module="toy_backend")
    assert done.returncode == 0, done.stderr
    assert "parrot:hello may answer otherwise another time" in done.stderr
    samples = Dataset.open(done.stdout.split()[-1])
    table = samples.read()
    assert sorted(table["response"].to_pylist()) == ["hello hello"] * 2 + ["hello me"] * 2
    assert samples.schema["response_ids"].nullable and "prompt_ids" not in table.column_names
    scored = made(tmp_path, "Label", "--data", samples.url, "--op", "reward", "--model", "parrot:hello")
    assert sorted(scored.read()["reward"].to_pylist()) == [1.0, 1.0, 2.0, 2.0]
    assert {line.split()[1] for line in (tmp_path / "closed.txt").read_text().splitlines()} == {"hello"}
    figures = luigi(
        tmp_path, "Evaluate", "--model", "parrot:hello", "--prompts", "prompts.jsonl", "--reward-model", "parrot:me",
        module="toy_backend",
    )  # fmt: skip
    assert figures.returncode == 0, figures.stderr
    assert "reward.mean                  0.5000" in figures.stdout and "length" not in figures.stdout
    down = luigi(tmp_path, *asked[:1], "--model", "parrot:dead", *asked[3:], module="toy_backend")
    assert (down.returncode, "parrot:dead does not answer" in down.stderr) == (13, True)
    refused = luigi(tmp_path, *asked, "--top-k", "5", module="toy_backend")
    assert (refused.returncode, "a parrot gives no top_k" in refused.stderr) == (2, True)


def test_a_model_elsewhere_that_reads_ids_brings_its_tokenizer(plan: Plan, tmp_path: Path) -> None:
    model = model_at(plan, f"counter:{tiny.write('llama', tmp_path / 'hf')}", "scorer")
    table = plan.table("rows", Reversal(rows=3, output="demonstrations"))
    rows = apply(table.op, [], table.url, task_key=table.task_key)
    with pytest.raises(ConfigError, match="has no chat template"):
        ask(plan, "none", Reward(), table, model)
    plain = Rendering(template="plain")
    asked = ask(plan, "scored", Reward(), table, model, reading=Reading(rendering=plain))
    stages = [node for node in asked.ancestors() if isinstance(node, Table) and node.label != "rows"]
    for node in stages:
        made = {name: resource_of(name, given, rows.schema) for name, given in node.resources.items()}
        rows = apply(node.op, rows, node.url, resources=made, task_key=node.task_key)
    assert [node.op.name for node in stages] == ["template.reward_prompt", "tokenize.encode", "label.reward"]
    read = rows.read()
    assert read["tokens"].to_pylist() == [float(len(ids)) for ids in read["input_ids"].to_pylist()]
    assert rows.facts["tokenizer"] == model.tokenizer_id and min(read["tokens"].to_pylist()) > 1
    with pytest.raises(ConfigError, match="more than the 64 tokens"):
        ask(plan, "long", Reward(), table, model, reading=Reading(rendering=plain, max_length=65))


def test_an_identity_is_content_and_a_schemes_backend_comes_before_functions(plan: Plan) -> None:
    one, other = (model_at(plan, f"parrot:{word}") for word in ("a", "b"))
    assert one.task_key != other.task_key == model_at(Plan("elsewhere"), "parrot:b").task_key
    assert isinstance(backend_of(one), Parrot)


# References and roles


def test_a_reference_that_is_none_is_refused_with_all_forms_and_an_example(plan: Plan, tmp_path: Path) -> None:
    for reference in ("nowhere", "nothing-of-the-kind://127.0.0.1/v1#model", str(tmp_path)):
        with pytest.raises(ConfigError, match="is no model") as fault:
            model_at(plan, reference, "scorer")
        assert all((each.example in fault.value.expected) == ("scorer" in each.roles) for each in backends())
    with pytest.raises(ConfigError, match="can be no generator") as fault:
        model_at(plan, "my_rewards:brevity", "generator")
    assert "my_rewards" not in fault.value.expected and "parrot:hello" in fault.value.expected


def test_what_a_model_cannot_give_is_refused_while_the_graph_is_made(plan: Plan, rows: Table, policy: Node) -> None:
    parrot = model_at(plan, "parrot:x")
    with pytest.raises(ConfigError, match="a parrot can be no model"):
        ask(plan, "top", TopK(), rows, parrot)
    complete = Complete(sampling=Sampling(top_k=3))
    with pytest.raises(ConfigError, match="a parrot gives no top_k"):
        ask(plan, "answers", complete, rows, parrot)
    assert ops(ask(plan, "answers", complete, rows, policy))[-1] == "generate.complete"


# What a model reads


@pytest.mark.parametrize(
    ("op", "stages"),
    [
        (Complete(), ["template.chat", "tokenize.encode", "generate.complete"]),
        (Reward(), ["template.reward_prompt", "tokenize.encode", "label.reward"]),
        (Logprobs(), ["template.chat", "tokenize.mask", "label.logprobs"]),
        (TopK(), ["template.chat", "tokenize.mask", "label.topk"]),
        (Values(), ["template.chat", "tokenize.mask", "label.values"]),
    ],
    ids=lambda value: value.name if isinstance(value, Op) else "",
)
def test_the_graph_adds_what_a_checkpoint_reads(
    plan: Plan, rows: Table, policy: Node, judge: Node, op: Op, stages: Any
) -> None:
    assert ops(ask(plan, "asked", op, rows, judge if op.asks & {"scores", "values"} else policy)) == stages


def test_a_pair_is_read_by_a_reference_policy_and_a_parrot_reads_rows_as_they_are(
    plan: Plan, rows: Table, policy: Node, tmp_path: Path
) -> None:
    columns = tuple((f"{side}_ids", f"{side}_mask", f"ref_{side}") for side in ("chosen", "rejected"))
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "q", "chosen": "a", "rejected": "b"}\n')
    read = Jsonl(files=(str(tmp_path / "pairs.jsonl"),), format="preferences")
    pairs = plan.table("rows", read.pinned())
    asked = ask(plan, "pairs", Logprobs(columns=columns, per="row"), pairs, policy)
    assert ops(asked) == ["template.reward_prompt", "tokenize.sequences", "label.logprobs"]
    parrot = model_at(plan, "parrot:x")
    assert readable(plan, "x", Complete(), rows, parrot) is rows
    assert steps(Reward(), rows, parrot) == ()


def test_rows_are_read_with_the_tokenizer_of_the_model_where_another_is_at_hand(
    plan: Plan, rows: Table, policy: Node
) -> None:
    other = plan.table("other", Train(vocab_size=300), rows)
    asked = ask(plan, "read", Logprobs(), rows, policy, reading=Reading(tokenizer=other))
    assert asked.tokenizer_by_column["input_ids"] == (policy.tokenizer_id,)


def test_columns_of_rewards_follow_the_names_that_a_model_will_have_for_its_numbers(plan: Plan, tmp_path: Path) -> None:
    rows = plan.table("rows", Reversal(rows=8, output="demonstrations"))
    tokenizer = plan.table("tokenizer", Train(vocab_size=288), rows)
    (tmp_path / "judged.jsonl").write_text('{"prompt": "q", "response": "a", "helpfulness": 1}\n')
    judged = plan.table("judged", Jsonl(files=(str(tmp_path / "judged.jsonl"),), format="helpsteer").pinned())
    texts = plan.table("texts", Chat(template="plain"), judged, tokenizer=tokenizer)
    data = plan.table("tokens", Encode(), texts, tokenizer=tokenizer)
    shape = {**SHAPE, "max_sequence_length": 32}
    learning = {
        "settings": {"attributes": ["good", "brief"]},
        "epochs": 1,
        "global_batch_size": 1,
        "optim": {"lr": 1e-3},
    }
    training = training_of("rm_regression", learning, seed=0, model=shape)
    model = plan.model("judge", training, data=data, tokenizer=tokenizer)
    assert ask(plan, "both", Reward(), rows, model).schema.names[-2:] == ("good", "brief")
    with pytest.raises(ConfigError, match="the scorer gives no reward"):
        ask(plan, "none", Reward(reads="reward"), rows, model)
    with pytest.raises(ConfigError, match="the scorer gives no tone"):
        ask(plan, "none", Attributes(names=("good", "tone")), rows, model)


# Where a model answers


@pytest.mark.parametrize(("gpus", "seen"), [(2, ["0,1", "2,3"]), (4, ["0,1,2,3"]), (6, ["0,1,2,3,4"])])
def test_a_worker_sees_as_many_gpus_as_its_model_is_placed_on(
    gpus: int, seen: list[str], plan: Plan, rows: Table, policy: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "visible_gpus", lambda: ("0", "1", "2", "3", "4"))
    monkeypatch.setattr(Checkpoint, "placement", Placement(gpus=gpus))
    asked = ask(plan, "answers", Complete(), rows, policy)
    assert workers.workers_of(asked, 8) == (len(seen), [{"CUDA_VISIBLE_DEVICES": names} for names in seen])


def test_one_worker_for_each_gpu_one_client_for_what_is_elsewhere(
    plan: Plan, rows: Table, policy: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ask(plan, "answers", Complete(), rows, policy)
    monkeypatch.setattr(workers, "visible_gpus", lambda: ("0", "1", "2"))
    three = [{"CUDA_VISIBLE_DEVICES": name} for name in "012"]
    assert workers.workers_of(asked, 8) == (3, three)
    assert workers.workers_of(asked, 2) == (2, three[:2])
    assert workers.workers_of(rows, 8) == (8, ())
    parrot = ask(plan, "scored", Reward(), rows, model_at(plan, "parrot:x"))
    assert workers.workers_of(parrot, 8) == (1, ()) and backend_of(parrot.resources["scorer"]).placement == Server(
        inside=False, concurrency=4
    )
    monkeypatch.setattr(workers, "visible_gpus", tuple)
    assert workers.workers_of(asked, 8) == (8, ())


@pytest.mark.parametrize(
    ("listed", "gpus"), [("0,2", ("0", "2")), ("", ()), ("-1", ()), ("1,-1,2", ("1",)), ("GPU-5a, 1", ("GPU-5a", "1"))]
)
def test_the_gpus_of_a_stage_are_those_that_its_processes_may_use(
    monkeypatch: pytest.MonkeyPatch, listed: str, gpus: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    monkeypatch.setattr(workers, "_torch_has_cuda", lambda: True)
    assert workers.visible_gpus() == gpus
    monkeypatch.setattr(workers, "_torch_has_cuda", lambda: False)
    assert workers.visible_gpus() == ()


def test_a_model_travels_to_its_worker_by_name(plan: Plan) -> None:
    import pickle

    resource = resource_of("scorer", model_at(plan, "parrot:x"), SAMPLES)
    client = pickle.loads(pickle.dumps(resource)).open()
    assert client.score(pa.table({"response": ["x x", "y"]}))["reward"].to_pylist() == [2.0, 0.0]
    assert client.concurrency == Parrot.placement.concurrency == 4


@pytest.mark.slow
def test_a_checkpoint_is_opened_with_the_threads_of_its_placement(tmp_path: Path) -> None:
    import torch

    folder = tiny.write("llama", tmp_path / "hf")
    done = luigi(tmp_path, "ImportModel", "--folder", str(folder), module="pipelines")
    assert done.returncode == 0, done.stderr
    before = torch.get_num_threads()
    try:
        for threads in (2, 1):
            Checkpoint().open(done.stdout.split()[-1], "model", SAMPLES, Placement(threads=threads))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


# The registry


def test_a_subclass_adds_references_and_its_parent_opens_them(plan: Plan, policy: Node) -> None:
    class Acme(Checkpoint):
        """Sorts before `Checkpoint`."""

        form: ClassVar[str] = "an acme name"
        example: ClassVar[str] = "acme:policy"
        schemes: ClassVar[tuple[str, ...]] = ("acme",)

        def recognises(self, reference: str) -> bool:
            return reference.startswith("acme:")

        def node(self, plan: Plan, reference: str) -> Node:
            return policy

    with registered(Acme):
        assert type(backend_of(policy)) is Checkpoint
        assert model_at(plan, "acme:policy") is policy
        assert type(backend_of(model_at(plan, "acme:policy"))) is Checkpoint
    assert "acme" not in {scheme for each in backends() for scheme in each.schemes}


def test_what_belongs_to_another_backend_is_refused(policy: Node) -> None:
    class Reopened(Checkpoint):
        def open(self, url: str, role: Role, takes: Schema, placement: Placement) -> object:
            return None

    class SecondKind(Parrot):
        kind: ClassVar[str] = "function"
        schemes: ClassVar[tuple[str, ...]] = ()

    class SecondScheme(Parrot):
        kind: ClassVar[str] = "budgerigar"

    for claims, words in (
        (Reopened, "claims open of the kind checkpoint, which Checkpoint has"),
        (SecondKind, "claims the kind function, which Function has"),
        (SecondScheme, "claims references that begin with parrot:"),
    ):
        before = dict(backend._BACKENDS)
        with pytest.raises(ConfigError, match=words), registered(claims):
            pass
        assert before == backend._BACKENDS
    assert type(backend_of(policy)) is Checkpoint


def test_a_class_of_the_same_name_elsewhere_replaces_none_and_one_defined_anew_itself(policy: Node) -> None:
    def defined() -> type[Backend]:
        class Checkpoint(Parrot):
            kind: ClassVar[str] = "budgerigar"
            schemes: ClassVar[tuple[str, ...]] = ("budgerigar",)

        return Checkpoint

    count = len(backends())
    with registered(defined()), registered(defined()):
        assert type(backend_of(policy)) is backends_checkpoint.Checkpoint
        assert len(backends()) == count + 1


def test_the_sketch_of_a_backend_in_the_docs_is_one_beside_those_that_are_there(tmp_path: Path) -> None:
    (sketch,) = [block.text for block in pages.blocks(ROOT / "docs/extending.md") if "(Backend):" in block.text]
    (tmp_path / "sketch.py").write_text(sketch, encoding="utf-8")
    names = {"Backend": Backend, "Placement": Placement, "register": lambda kind: kind}
    kind = runpy.run_path(str(tmp_path / "sketch.py"), init_globals=names)["OpenAiServer"]
    with registered(kind):
        assert [type(each) for each in backends() if each.recognises(kind.example)] == [kind]
        assert {*kind.settings} <= {field.name for field in dataclasses.fields(kind.placement)}


@contextlib.contextmanager
def registered(kind: type[Backend]) -> Iterator[None]:
    """The backend among the others for as long as the block runs."""
    before = dict(backend._BACKENDS)
    try:
        register(kind)
        yield
    finally:
        backend._BACKENDS.clear()
        backend._BACKENDS.update(before)
