"""Engines of other programs in our workers: what they are asked by the published interfaces, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest

from datakit.clients import ANSWERS, Compared, Generator, Sampling, TokenModel
from datakit.clients.seeds import base_seed
from datakit.label import Logprobs
from pipelines.backends.engine import Engine, Loading, answer_texts
from pipelines.engines.client import Draw, Drawn, EngineGenerator, TokenEngine
from pipelines.graph import backend
from pipelines.graph.backend import model_at, placement_of, register
from pipelines.graph.external import EngineModel
from pipelines.graph.plan import Plan
from pipelines.runtime import workers
from pipelines.runtime.tasks import tasks_of
from schemas.errors import ConfigError, DataError, IntegrityError
from tests.pipelines.engines.conftest import Own, stood

BOTH = pytest.mark.parametrize("kind", ["vllm", "trtllm"])
CLOSE = 2e-5
"""Nats between two forward passes in fp32 of one network."""
ASCII = 3, 97
Open = Callable[..., Any]
Published = Callable[[str], ModuleType]


def prompts(count: int, distinct: int | None = None) -> pa.Table:
    """`count` prompts of ASCII, the first `distinct` of them again and again."""
    drawn = np.random.default_rng(5)
    ids = [drawn.integers(*ASCII, drawn.integers(3, 30)).tolist() for _ in range(distinct or count)]
    return pa.table({"prompt_ids": pa.array([ids[row % len(ids)] for row in range(count)], pa.list_(pa.int32()))})


def seeds(count: int) -> np.ndarray:
    return (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)


def answered(client: Generator, rows: pa.Table, sampling: Sampling) -> list[dict[str, Any]]:
    return ANSWERS.conform(client.generate(rows, sampling, seeds(rows.num_rows))).to_pylist()


def furthest(some: Sequence[Sequence[float]], others: Sequence[Sequence[float]]) -> float:
    assert [len(row) for row in some] == [len(row) for row in others]
    return max(float(np.abs(np.subtract(one, other)).max()) for one, other in zip(some, others, strict=True) if one)


# What is asked, and what becomes of it


@BOTH
@pytest.mark.parametrize("stop", [(), ("<|im_end|>",), ("e", "\n"), ("ab", "Zz")])
def test_greedy_answers_are_those_of_our_own_engine(
    kind: str, stop: tuple[str, ...], own: Own, published: Published, opened: Open
) -> None:
    """Ids, texts, ends and log-probabilities; also where an engine looks for stop texts among tokens alone."""
    published(kind)
    client = opened(f"{kind}:{own.checkpoint}")
    rows, sampling = prompts(8), Sampling(greedy=True, max_new_tokens=20, stop=stop)
    theirs = answered(client, rows, sampling)
    ours = own.generator.generate(rows, sampling, seeds(8)).to_pylist()
    for name in ("prompt_row", "sample_index", "error", "response_ids", "finish_reason", "response"):
        assert [one[name] for one in theirs] == [one[name] for one in ours], name
    assert furthest([one["logprobs"] for one in theirs], [one["logprobs"] for one in ours]) <= CLOSE
    assert isinstance(client, Generator)


@BOTH
@pytest.mark.parametrize("cut", [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.7, "temperature": 1.3}])
def test_draws_have_a_seed_each_and_log_probabilities_of_the_whole_distribution(
    kind: str, cut: dict[str, Any], own: Own, published: Published, opened: Open
) -> None:
    module = published(kind)
    client, rows = opened(f"{kind}:{own.checkpoint}"), prompts(4, distinct=2)
    before = len(module.ASKED)
    answers = answered(client, rows, Sampling(samples_per_prompt=3, max_new_tokens=12, **cut))
    asked = [one["seed"] for one in module.ASKED[before:]]
    assert asked == [base_seed(int(seed)) + number for seed in seeds(4) for number in range(3)]
    ids = rows["prompt_ids"].to_pylist()
    whole = [np.array([*ids[one["prompt_row"]], *one["response_ids"]], np.int64) for one in answers]
    lengths = [len(one["response_ids"]) for one in answers]
    again = [row[-n:] for row, n in zip(own.frozen.logprobs(whole).to_pylist(), lengths, strict=True)]
    assert furthest([one["logprobs"] for one in answers], again) <= CLOSE
    fewer = answered(client, rows, Sampling(samples_per_prompt=2, max_new_tokens=12, **cut))
    assert fewer == [one for one in answers if one["sample_index"] < 2]
    assert len({tuple(one["response_ids"]) for one in answers}) == len(answers) or cut


@BOTH
def test_given_tokens_are_scored_as_our_own_engine_scores_them(
    kind: str, own: Own, published: Published, opened: Open
) -> None:
    published(kind)
    client, drawn = opened(f"{kind}:{own.checkpoint}", "model"), np.random.default_rng(9)
    rows = [drawn.integers(0, 250, length) for length in (1, 2, 40, 95)]
    assert isinstance(client, TokenModel)
    assert furthest(client.logprobs(rows).to_pylist(), own.frozen.logprobs(rows).to_pylist()) <= CLOSE
    (their_ids, their_values), (our_ids, our_values) = client.top_k(rows, 5), own.frozen.top_k(rows, 5)
    assert their_ids == our_ids.cast(their_ids.type)
    flat = [
        [[value for token in row for value in token] for row in one.to_pylist()] for one in (their_values, our_values)
    ]
    assert furthest(*flat) <= CLOSE
    with pytest.raises(DataError, match="a token less than the model"):
        client.logprobs([np.zeros(96, np.int64)])
    for never in (lambda: client.entropies(rows), lambda: client.values(rows), lambda: client.logprobs_at(rows, rows)):
        with pytest.raises(ConfigError, match="an engine does not say"):
            never()


@BOTH
def test_prompts_without_room_are_errors_and_the_rest_is_answered(
    kind: str, own: Own, published: Published, opened: Open
) -> None:
    published(kind)
    ids = [[5, 6, 7], [9] * 94, [9] * 96, [], [9999]]
    rows = pa.table({"prompt_ids": pa.array(ids, pa.list_(pa.int32()))})
    sampling = Sampling(max_new_tokens=8, greedy=True)
    answers = answered(opened(f"{kind}:{own.checkpoint}"), rows, sampling)
    ours = own.generator.generate(rows, sampling, seeds(5)).to_pylist()
    assert [one["error"] for one in answers] == [one["error"] for one in ours]
    assert [len(one["response_ids"] or []) for one in answers] == [8, 2, 0, 0, 0]


@BOTH
def test_how_an_engine_is_loaded(
    kind: str, own: Own, published: Published, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raw log-probabilities, kept beginnings, as many GPUs as the worker sees, no code out of the folder."""
    module = published(kind)
    monkeypatch.setattr(workers, "visible_gpus", lambda: ("4", "5"))
    opened(f"{kind}:{own.checkpoint},gpus=2,memory=0.5,positions=64")
    loaded = dict(module.ASKED[0])
    assert (loaded.pop("dtype"), loaded.pop("tensor"), loaded.pop("trust_remote_code")) == ("float32", 2, False)
    kept = loaded.pop("kv_cache_config", None)
    if kind == "trtllm":
        assert loaded == {"max_seq_len": 64}
        assert (kept.enable_block_reuse, kept.free_gpu_memory_fraction) == (True, 0.5)
        return
    assert loaded == {
        "max_model_len": 64, "gpu_memory_utilization": 0.5, "enable_prefix_caching": True, "generation_config": "vllm",
        "logprobs_mode": "raw_logprobs", "max_logprobs": -1, "load_format": "safetensors",
    }  # fmt: skip


def test_vllm_is_asked_no_temperature_that_it_would_change(own: Own, published: Published, opened: Open) -> None:
    published("vllm")
    client = opened(f"vllm:{own.checkpoint}")
    for temperature in (0.001, 2.5):
        with pytest.raises(ConfigError, match=f"at no temperature of {temperature}"):
            client.generate(prompts(1), Sampling(temperature=temperature), seeds(1))


# Held against our own network


@BOTH
@pytest.mark.parametrize("role", ["generator", "model"])
def test_an_engine_with_other_weights_is_not_believed(
    kind: str, role: str, own: Own, published: Published, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published(kind), "FAULT", "head")
    with pytest.raises(IntegrityError, match=f"{kind} does not compute what Quiver computes") as fault:
        opened(f"{kind}:{own.checkpoint}", role)
    assert fault.value.code == 11
    ours, theirs = (float(text.split()[0].rstrip(",")) for text in (fault.value.expected, fault.value.found))
    assert abs(ours - theirs) > 1e-3 and "0.001" in fault.value.expected and "away" in fault.value.found


@BOTH
def test_an_engine_that_gives_what_it_drew_from_is_not_believed(
    kind: str, own: Own, published: Published, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published(kind), "FAULT", "processed")
    with pytest.raises(IntegrityError, match="not those of the whole distribution"):
        opened(f"{kind}:{own.checkpoint}")
    assert opened(f"{kind}:{own.checkpoint}", "model").compared["given"]["greatest"] < CLOSE


@BOTH
def test_what_was_found_is_plain_and_says_the_tolerance(
    kind: str, own: Own, published: Published, opened: Open
) -> None:
    published(kind)
    client = opened(f"{kind}:{own.checkpoint}")
    assert isinstance(client, Compared)
    compared = client.compared
    assert (compared["engine"].split()[0], compared["precision"]) == (kind, "fp32")
    for part in ("given", "drawn"):
        assert compared[part]["tolerance"] == {"mean": 1e-4, "greatest": 1e-3}
        assert 0 <= compared[part]["mean"] <= compared[part]["greatest"] < CLOSE and compared[part]["tokens"] > 20


# The graph


def test_a_checkpoint_is_exported_once_for_all_engines_and_each_answers_under_its_own_key(
    own: Own, published: Published, plan: Plan
) -> None:
    published("vllm")
    one, other = (model_at(plan, f"{kind}:{own.checkpoint}", "generator") for kind in ("vllm", "trtllm"))
    assert isinstance(one, EngineModel) and isinstance(other, EngineModel)
    assert one.folder is other.folder is not None and one.known is other.known
    plain = model_at(plan, own.checkpoint)
    assert len({one.task_key, other.task_key, plain.task_key}) == 3 and one.tokenizer_id == plain.tokenizer_id
    assert {task.node for task in tasks_of([one])} == {one.folder, one.known}
    assert model_at(plan, f"vllm:{own.checkpoint},positions=64").max_sequence_length == 64
    assert one.max_sequence_length == 96
    assert (one.name, other.name) == ("checkpoint in vllm", "checkpoint in trtllm")


def test_a_hugging_face_folder_is_asked_as_it_is_and_no_other(own: Own, published: Published, tmp_path: Path) -> None:
    module = published("vllm")
    folder = tmp_path / "llama"
    folder.mkdir()
    for file in own.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    node = stood(model_at(Plan(str(tmp_path / "root")), f"vllm:{folder}", "generator"))
    assert isinstance(node, EngineModel) and node.folder is None
    opener = backend.backend_of(node)
    given = {"role": "generator", "takes": node.known.schema, "placement": placement_of(node)}
    opener.open(node.url, **given).close()
    assert module.ASKED and not list((tmp_path / "root").rglob("*.safetensors"))
    (folder / "generation_config.json").write_text('{"eos_token_id": 5}')
    with pytest.raises(IntegrityError, match="changed since this run was planned"):
        opener.open(node.url, **given)


@BOTH
def test_without_the_library_nothing_is_planned_and_the_extra_is_named(kind: str, own: Own, plan: Plan) -> None:
    with pytest.raises(ConfigError, match="which is not installed") as fault:
        model_at(plan, f"{kind}:{own.checkpoint}", "generator")
    assert fault.value.next.endswith(f"[{kind}]'") and "install" in fault.value.next


def test_what_is_no_model_of_weights_is_refused(published: Published, plan: Plan, own: Own) -> None:
    published("vllm")
    with pytest.raises(ConfigError, match="has no weights here"):
        model_at(plan, "vllm:http://localhost:1/v1#m", "generator")
    with pytest.raises(ConfigError, match="can be no scorer"):
        model_at(plan, f"vllm:{own.checkpoint}", "scorer")
    for wrong in ("memory=1.5", "positions=4", "gpus=-1"):
        with pytest.raises(ConfigError, match=wrong.partition("=")[0]):
            model_at(plan, f"vllm:{own.checkpoint},{wrong}")


def test_a_machine_without_gpus_has_one_worker_and_one_with_them_one_for_every_group(
    own: Own, published: Published, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    published("vllm")
    model = model_at(plan, f"vllm:{own.checkpoint},gpus=2", "model")
    asked = plan.table("known-again", Logprobs(columns=(("input_ids", "", "l"),), per="row"), model.known, model=model)
    monkeypatch.setattr(workers, "visible_gpus", tuple)
    assert workers.workers_of(asked, 8) == (1, ())
    monkeypatch.setattr(workers, "visible_gpus", lambda: tuple("01234567"))
    count, environments = workers.workers_of(asked, 8)
    assert count == 4 and environments[1] == {"CUDA_VISIBLE_DEVICES": "2,3"}


# A third one


class Echo:
    """Says what our own network says."""

    def __init__(self, frozen: Any) -> None:
        self.frozen, self.closed = frozen, False

    def draw(
        self, asked: Sequence[Draw], sampling: Sampling, texts: Sequence[str], ids: Sequence[int]
    ) -> Sequence[Drawn]:
        whole = [np.array([*one.ids, 40, 41], np.int64) for one in asked]
        return [Drawn([40, 41], row[-2:], "length") for row in self.frozen.logprobs(whole).to_pylist()]

    def read(self, rows: Sequence[list[int]], top: int) -> Sequence[Sequence[Mapping[int, float]]]:
        given = self.frozen.logprobs([np.array(row, np.int64) for row in rows]).to_pylist()
        return [[{number: value} for number, value in zip(row[1:], one[1:], strict=True)]
                for row, one in zip(rows, given, strict=True)]  # fmt: skip

    def close(self) -> None:
        self.closed = True


def test_a_third_engine_is_a_class_with_two_methods(own: Own, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_BACKENDS", dict(backend._BACKENDS))

    @register
    class Third(Engine):
        kind: ClassVar[str] = "third"
        form: ClassVar[str] = "a model in a third engine"
        example: ClassVar[str] = "third:./llama"
        schemes: ClassVar[tuple[str, ...]] = ("third",)
        library: ClassVar[str] = "json"
        distributions: ClassVar[tuple[str, ...]] = ()
        extra: ClassVar[str] = "third"

        def load(self, asked: Loading) -> TokenEngine:
            return Echo(own.frozen)

    client = opened(f"third:{own.checkpoint}")
    assert [one["response"] for one in answered(client, prompts(2), Sampling(max_new_tokens=2))] == ["FG", "FG"]
    assert client.compared["engine"] == "third"


@pytest.mark.parametrize(
    ("drawn", "words"),
    [
        (Drawn([40], [-1.0], "abort"), "ended the answer: abort"),
        (Drawn([40, 5000], [-1.0, -1.0], "stop"), "token id 5000"),
        (Drawn([40, 41], [-1.0], "stop"), "1 log-probabilities of 2 tokens"),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_its_row(drawn: Drawn, words: str, own: Own) -> None:
    class Odd(Echo):
        def draw(self, asked: Sequence[Draw], *rest: Any) -> Sequence[Drawn]:
            return [drawn, *super().draw(asked[1:], *rest)]

    client = EngineGenerator(Odd(own.frozen), answer_texts(own.checkpoint))
    first, second = answered(client, prompts(2), Sampling(max_new_tokens=2))
    assert words in first["error"] and second["response"] == "FG"
