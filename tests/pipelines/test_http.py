"""A server as a backend: what a reference says, what the graph makes of it, and a run from the command line."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pyarrow.compute as pc
import pytest
from commands import luigi

from datakit.clients import Sampling
from datakit.generate import Complete
from datakit.io import Reversal
from datakit.label import TopK
from pipelines.backends.http import Http, HttpTokens, Served
from pipelines.graph.backend import backend_of, checkpoint_at, model_at
from pipelines.graph.nodes import Table
from pipelines.graph.placement import Placement
from pipelines.graph.plan import Plan
from pipelines.runtime.workers import workers_of
from pipelines.stages.ask import ask
from schemas.dataset import Dataset
from schemas.errors import ConfigError, IntegrityError, ServiceError
from schemas.rows.usage import USAGE_NAMES
from schemas.tokenizer import folder_identity
from tests.model_server import ModelServer, Raw, http
from tests.trainers.weights import tiny


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan(str(tmp_path / "data"))


def test_a_model_is_its_name_and_revision_never_its_address(plan: Plan) -> None:
    here, there = (model_at(plan, f"http://{host}/v1#org/m-7b") for host in ("a:1", "b"))
    assert here.task_key == there.task_key != model_at(plan, "http://b/v1#m-7b").task_key
    op, rows = Complete(), plan.table("rows", Reversal(rows=3, output="demonstrations"))
    keys = {
        reference: ask(plan, f"answers{number}", op, rows, model_at(plan, f"http://a/v1#m{reference}")).task_key
        for number, reference in enumerate(("", ",concurrency=3", ",revision=2", ",api=chat"))
    }
    assert keys[""] == keys[",concurrency=3"] and len(set(keys.values())) == 3


def test_with_a_tokenizer_it_is_asked_in_tokens_and_without_one_in_text(plan: Plan, tmp_path: Path) -> None:
    folder = tiny.write("llama", tmp_path / "hf")
    rows = plan.table("rows", Reversal(rows=3, output="demonstrations"))
    text = model_at(plan, "http://127.0.0.1:1/v1#m", "generator")
    tokens = model_at(plan, f"http://127.0.0.1:1/v1#m,tokenizer={folder},concurrency=5", "generator")
    assert (type(backend_of(text)), type(backend_of(tokens))) == (Http, HttpTokens)
    assert tokens.tokenizer_id == folder_identity(str(folder))
    answered = ask(plan, "text", Complete(), rows, text)
    assert answered.schema["response_ids"].nullable and answered.schema.names[-1] == "reasoning"
    drawn = ask(plan, "tokens", Complete(sampling=Sampling(top_k=3)), rows, tokens)
    assert not drawn.schema["response_ids"].nullable and "prompt_ids" in drawn.schema
    assert workers_of(drawn, 8) == (1, ())
    assert isinstance(drawn.inputs[0], Table) and drawn.inputs[0].op.name == "tokenize.encode"
    with pytest.raises(ConfigError, match="can be no model"):
        ask(plan, "top", TopK(), rows, text)
    with pytest.raises(ConfigError, match="has no weights here to start from"):
        checkpoint_at(plan, "http://127.0.0.1:1/v1#m")
    for wrong in (
        ",tokenizer=nowhere",
        ",api=generate",
        ",api=chat,tokenizer=x",
        ",patience=0",
        ",password=x",
        f",api=generate,tokenizer={folder},stream=true",
    ):
        with pytest.raises(ConfigError):
            model_at(plan, f"http://127.0.0.1:1/v1#m{wrong}")
    with pytest.raises(ConfigError, match="does not say which model"):
        model_at(plan, "http://127.0.0.1:1/v1")


def test_a_server_answers_a_file_of_prompts_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n{"prompt": "three"}\n')

    def odd(server: ModelServer, body: dict, answer: dict) -> Raw | None:
        if body["messages"][-1]["content"] == "two":
            return Raw(http(400, b'{"error": {"message": "not two"}}'))
        return None

    secret = "sk-planted-9876543210"
    with ModelServer(key=secret, faults=odd) as server:
        prices = tmp_path / "prices.json"
        prices.write_text('{"m": {"prompt": 100, "completion": 200}}')
        reference = f"{server.reference},key=MY_KEY,usage=true,prices={prices}"
        asked = ("Generate", "--model", reference, "--prompts", "prompts.jsonl")
        asked += ("--samples-per-prompt", "2")
        done = luigi(tmp_path, *asked, module="pipelines", MY_KEY=secret)
        assert done.returncode == 0, done.stderr
        none = luigi(tmp_path, *asked[:2], f"{server.reference},revision=b", *asked[3:], module="pipelines")
    assert none.returncode == 13 and "refuses every request" in none.stderr
    samples = Dataset.open(done.stdout.split()[-1])
    rejected = samples.read_rejected()
    assert samples.num_rows == 4 and rejected["threshold"].to_pylist() == ["400: not two"] * 2
    assert pc.count_distinct(samples.read()["response"]).as_py() == 4
    assert samples.read()["cost"].to_pylist() == [pytest.approx((3 * 100 + 10 * 200) / 1e6 / 2)] * 4
    assert "note: servers answered 3 requests, 6 tokens of prompts, 20 tokens of answers, cost 0.0046" in done.stderr
    assert "1 without a count of tokens" in done.stderr
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert secret.encode() not in written and secret not in done.stdout + done.stderr + none.stderr


def test_usage_is_in_the_key_because_it_adds_columns_and_prices_are_not(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text('{"m": {"prompt": 1, "completion": 2}}')
    op, rows = Complete(), plan.table("rows", Reversal(rows=3, output="demonstrations"))
    plain, priced, shown = (
        ask(plan, "answers", op, rows, model_at(plan, f"http://a/v1#m{settings}", "generator"))
        for settings in ("", f",prices={tmp_path}/p.json", f",prices={tmp_path}/p.json,usage=true")
    )
    assert plain.task_key == priced.task_key != shown.task_key
    assert [*USAGE_NAMES] == [name for name in shown.schema.names if name not in plain.schema]
    with pytest.raises(ConfigError, match="other is not among m") as fault:
        model_at(plan, f"http://a/v1#other,prices={tmp_path}/p.json", "generator")
    assert fault.value.slug == "no-price"


def test_a_server_that_answers_otherwise_than_before_stops_the_run_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "one"}\n')
    with ModelServer() as server:
        before = len(server.bodies)
        model = model_at(Plan(str(tmp_path / "data")), server.reference, "generator")
        for _ in range(2):
            backend_of(model).health(model)
        assert len(server.bodies) - before == 16

        def changed(server: ModelServer, body: dict, answer: dict) -> None:
            if answer["choices"][0]["message"]["content"][-1] in odd:
                answer["choices"][0]["message"]["content"] = "new"

        odd: str | tuple[str, ...] = ","
        server.faults = changed
        backend_of(model).health(model)
        exact = model_at(Plan(str(tmp_path / "data")), f"{server.reference},determinism=exact", "generator")
        assert backend_of(exact).determinism(exact) == "exact"
        with pytest.raises(IntegrityError, match="answers 2 of 8 probes otherwise") as fault:
            backend_of(exact).health(exact)
        assert fault.value.code == 11 and fault.value.slug == "server-changed"
        odd = ",es:Mt"
        with pytest.raises(IntegrityError, match="of 8 probes otherwise"):
            backend_of(model).health(model)
        other = model_at(Plan(str(tmp_path / "data")), f"{server.reference},revision=2", "generator")
        backend_of(other).health(other)
        strange = model_at(Plan(str(tmp_path / "data")), f"{server.base}#another", "judge")
        with pytest.raises(ServiceError, match="serves no another"):
            backend_of(strange).health(strange)
    with pytest.raises(ServiceError, match="does not answer"):
        backend_of(model).health(model)


def test_whatever_a_placement_of_servers_has_stands_behind_a_reference() -> None:
    """All of its own fields and two of those that every placement has; its bounds are the client's own."""
    own = {one.name for one in fields(Served)} - {one.name for one in fields(Placement)}
    assert {*Http.settings} == own | {"concurrency", "timeout"} and len(Http.settings) == 16
    assert (Served().concurrency, Served().timeout, Served().patience) == (64, 600.0, 300.0)
