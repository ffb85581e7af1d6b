"""generate.complete: samples are joined by row and index, failing rows set aside, lying replies errors."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.clients import ANSWERS, Generator, Sampling
from datakit.generate import Complete
from datakit.generate.complete import draw_id, sample_id
from datakit.op import Context
from datakit.run.resource import Resource
from schemas import SAMPLES
from schemas.errors import ConfigError, DataError, ServiceError
from tests.datakit.fakes import EchoGenerator, Example, generator, prompts

EXAMPLES = [Example(Complete(sampling=Sampling(samples_per_prompt=3), rows_per_chunk=4), (prompts(10),), generator())]


class Altered(EchoGenerator):
    """Changes the echo's reply by a function of the table."""

    def __init__(self, change) -> None:
        super().__init__()
        self.change = change

    def generate(self, rows, sampling, seeds):
        return self.change(super().generate(rows, sampling, seeds))


def complete(rows: pa.Table, client: object, samples: int = 2, seed: int = 0):
    op = Complete(sampling=Sampling(samples_per_prompt=samples))
    return op.expand(rows, Context(seed=seed, resources={"generator": client}, keys={"generator": "echo"}))


def test_every_prompt_gets_its_samples_in_order():
    assert isinstance(EchoGenerator(), Generator)
    rows = complete(prompts(4), EchoGenerator()).rows
    assert rows["prompt_id"].to_pylist() == [f"prompt_id {i}" for i in range(4) for _ in range(2)]
    assert rows["sample_index"].to_pylist() == [0, 1] * 4
    assert rows["prompt_ids"].to_pylist()[2:4] == [[1, 7]] * 2
    assert SAMPLES.check(rows).num_rows == 8


def test_sample_ids_are_functions_of_prompt_draw_and_index():
    ids = complete(prompts(4), EchoGenerator(), seed=7).rows["sample_id"].to_pylist()
    assert ids[3] == sample_id("prompt_id 1", draw_id("echo", Sampling(samples_per_prompt=2), 7), 1)
    assert all(re.fullmatch("[0-9a-f]{32}", name) for name in ids)
    assert len({*ids, *complete(prompts(4), EchoGenerator(), seed=8).rows["sample_id"].to_pylist()}) == 16


def test_sample_ids_tell_policies_and_settings_apart_and_prompt_and_index_pair_them(put, tmp_path):
    def answers(name: str, policy: str, processes: int = 0, shards=(10,), **settings: float):
        resources = {"generator": Resource(policy, EchoGenerator)}
        op = Complete(sampling=Sampling(samples_per_prompt=2, **settings))
        rows = put(prompts(10), shards)
        return apply(op, rows, str(tmp_path / name), resources=resources, seed=7, processes=processes).read()

    first = answers("a", "policy 1")
    again = answers("somewhere/else", "policy 1", processes=2, shards=(3, 3, 4))
    assert first["sample_id"] == again["sample_id"]
    others = [answers("b", "policy 2"), answers("c", "policy 1", temperature=0.5), answers("d", "policy 1", top_k=3)]
    ids = [name for table in (first, *others) for name in table["sample_id"].to_pylist()]
    assert len(set(ids)) == 4 * 20
    pairs = [
        list(zip(*(t[name].to_pylist() for name in ("prompt_id", "sample_index")), strict=True))
        for t in (first, *others)
    ]
    assert all(pair == pairs[0] for pair in pairs) and len(set(pairs[0])) == 20


def test_a_draw_depends_neither_on_neighbours_nor_on_order():
    whole = complete(prompts(6), EchoGenerator()).rows.select(["sample_id", "response"]).to_pylist()
    alone = complete(prompts(6).slice(3, 1), EchoGenerator()).rows.select(["sample_id", "response"]).to_pylist()
    backwards = complete(prompts(6).take([5, 4, 3, 2, 1, 0]), EchoGenerator()).rows
    assert alone == whole[6:8]
    assert sorted(map(str, backwards.select(["sample_id", "response"]).to_pylist())) == sorted(map(str, whole))


def test_a_prompt_at_which_the_generator_raises_is_set_aside(put, tmp_path):
    out = apply(
        EXAMPLES[0].op,
        put(prompts(10), (5,)),
        str(tmp_path / "out"),
        resources=generator(broken=(2, 7)),
        processes=0,
    )
    gone = out.read_rejected()
    assert out.num_rows == 8 * 3
    assert gone["prompt_id"].to_pylist() == ["prompt_id 2"] * 3 + ["prompt_id 7"] * 3
    assert gone["value"].to_pylist() == [0, 1, 2] * 2
    assert gone["threshold"].to_pylist()[0] == "RuntimeError: cannot answer 2"
    assert out.stats["rejected"] == {"no-answer": 6}
    calm = apply(EXAMPLES[0].op, put(prompts(10), (5,)), str(tmp_path / "calm"), resources=generator()).read()
    rest = [name not in ("prompt_id 2", "prompt_id 7") for name in calm["prompt_id"].to_pylist()]
    assert out.read() == calm.filter(pa.array(rest))


def test_a_fault_that_meets_every_prompt_is_not_theirs(put, tmp_path):
    with pytest.raises(DataError, match=r"op-failed.*RuntimeError: cannot answer"):
        apply(EXAMPLES[0].op, put(prompts(3)), str(tmp_path / "out"), resources=generator(broken=(0, 1, 2)))


def test_errors_and_missing_answers_are_rows_too():
    def change(table: pa.Table) -> pa.Table:
        table = table.append_column("error", pa.array([None, "refused", *[None] * (table.num_rows - 2)], pa.string()))
        return table.slice(0, table.num_rows - 1)

    result = complete(prompts(3), Altered(change))
    assert result.rows["sample_index"].to_pylist() == [1, 0, 1, 1]
    assert result.rejected["threshold"].to_pylist() == ["missing in the reply", "refused"]


def test_log_probabilities_that_are_not_finite_are_set_aside():
    def change(table: pa.Table) -> pa.Table:
        values = table["logprobs"].to_pylist()
        values[1], values[3] = [float("nan")] * len(values[1]), [None] * len(values[3])
        return table.set_column(4, "logprobs", pa.array(values, pa.list_(pa.float32())))

    result = complete(prompts(3), Altered(change))
    assert result.rows.num_rows == 4
    assert result.rejected["threshold"].to_pylist() == ["log-probability not finite"] * 2


def test_answers_in_any_order_are_matched_by_row_and_index():
    calm = complete(prompts(3), EchoGenerator()).rows
    assert complete(prompts(3), Altered(lambda t: t.take([5, 0, 3, 1, 4, 2]))).rows == calm


@pytest.mark.parametrize(
    "change",
    [
        lambda t: pa.concat_tables([t, t.slice(0, 1)]),
        lambda t: t.set_column(0, "prompt_row", pa.array([9] * t.num_rows, pa.int32())),
        lambda t: t.set_column(1, "sample_index", pa.array([-1] * t.num_rows, pa.int32())),
        lambda t: t.drop_columns(["logprobs"]),
        lambda t: t.set_column(3, "response", pa.array([1] * t.num_rows)),
        lambda t: t.set_column(3, "response", pa.array([None] * t.num_rows, pa.string())),
        lambda t: t.set_column(2, "response_ids", pa.array([[1, 2, 3, 4]] * t.num_rows, pa.list_(pa.int32()))),
    ],
    ids=["twice", "other-row", "other-index", "no-logprobs", "type", "null", "lengths"],
)
def test_a_reply_that_lies_is_an_error(change):
    with pytest.raises(ServiceError, match=r"error\[13/bad-reply\]"):
        complete(prompts(3), Altered(change))


def test_faults_of_the_service_pass_as_they_are():
    class Down(EchoGenerator):
        def generate(self, rows, sampling, seeds):
            raise ServiceError("down", "no server")

    with pytest.raises(ServiceError, match="down"):
        complete(prompts(3), Down())


def test_other_columns_pass_and_stale_sample_columns_are_replaced(put, tmp_path):
    given = put(SAMPLES.example(4))
    resources = {"generator": Resource("echo", EchoGenerator)}
    out = apply(Complete(), given, str(tmp_path / "out"), resources=resources)
    assert out.schema.names == SAMPLES.names
    assert out.read()["source"].to_pylist() == given.read()["source"].to_pylist()
    assert out.read()["response"].to_pylist() != given.read()["response"].to_pylist()


@pytest.mark.parametrize(
    "settings",
    [
        {"samples_per_prompt": 0},
        {"temperature": 0},
        {"temperature": 1e-38},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"max_new_tokens": 0},
        {"stop": ("",)},
        {"greedy": True, "samples_per_prompt": 2},
    ],
    ids=str,
)
def test_sampling_settings_are_checked(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Sampling(**settings)


def test_the_reply_schema_says_what_a_client_must_return():
    assert ANSWERS.names[:6] == (
        "prompt_row",
        "sample_index",
        "response_ids",
        "response",
        "logprobs",
        "finish_reason",
    )
