"""Our client and a server, a real vLLM or `quiver serve`, on the weights of our own engine: the same tokens, numbers,
texts and ends.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.clients import Sampling
from datakit.clients.http import HttpTokenModel
from datakit.clients.http.generator import Api
from schemas.dataset import Dataset
from tests.pipelines.commands import luigi
from tests.servers.conftest import Own
from tests.servers.own_server import OwnServer
from tests.servers.vllm_server import CONTEXT, VllmServer

pytestmark = pytest.mark.timeout(1800)
Asked = Callable[..., list[dict[str, Any]]]

CLOSE = 2e-5
"""Nats between two forward passes in fp32 of one network."""
HALF = "\ufffd"
ASCII = 3, 97
"""Ids of the letters of ASCII that can be seen: the first that the tokenizer has, behind three of control."""
TOKENS: tuple[Api, ...] = ("completions", "generate")


def prompts(count: int, distinct: int | None = None) -> pa.Table:
    """`count` prompts of ASCII, the first `distinct` of them again and again."""
    drawn = np.random.default_rng(5)
    ids = [drawn.integers(*ASCII, drawn.integers(3, 60)).tolist() for _ in range(distinct or count)]
    return pa.table({"prompt_ids": pa.array([ids[row % len(ids)] for row in range(count)], pa.list_(pa.int32()))})


def seeds(count: int) -> np.ndarray:
    return (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)


def furthest(some: list[list[float]], others: list[list[float]]) -> float:
    """The largest difference between numbers that stand in the same places."""
    assert [len(row) for row in some] == [len(row) for row in others]
    return max(float(np.abs(np.subtract(one, other)).max()) for one, other in zip(some, others, strict=True) if one)


def reread(own: Own, rows: pa.Table, answers: list[dict[str, Any]]) -> list[list[float]]:
    """What our own engine thinks of the tokens of each answer, behind its prompt."""
    ids = rows["prompt_ids"].to_pylist()
    whole = [np.array([*ids[one["prompt_row"]], *one["response_ids"]], np.int64) for one in answers]
    lengths = [len(one["response_ids"]) for one in answers]
    return [row[-n:] for row, n in zip(own.frozen.logprobs(whole).to_pylist(), lengths, strict=True)]


@pytest.mark.parametrize("api", TOKENS)
@pytest.mark.parametrize("stop", [(), ("<|im_end|>",), ("e", "\n")])
def test_greedy_answers_are_those_of_our_own_engine(api: Api, stop: tuple[str, ...], own: Own, asked: Asked) -> None:
    """32 prompts, up to 64 tokens: ids, texts, ends and log-probabilities."""
    rows, sampling = prompts(32), Sampling(greedy=True, max_new_tokens=64, stop=stop)
    theirs = asked(rows, sampling, seeds(32), api=api)
    ours = own.generator.generate(rows, sampling, seeds(32)).to_pylist()
    for name in ("error", "response_ids", "finish_reason", "response"):
        assert [one[name] for one in theirs] == [one[name] for one in ours], name
    apart = furthest([one["logprobs"] for one in theirs], [one["logprobs"] for one in ours])
    assert apart <= CLOSE
    assert {len(one["response_ids"]) for one in ours} == {64} or stop or "stop" in {o["finish_reason"] for o in ours}


@pytest.mark.parametrize("api", TOKENS)
@pytest.mark.parametrize("cut", [{}, {"temperature": 0.6}, {"top_k": 5}, {"top_p": 0.7, "temperature": 1.3}])
def test_log_probabilities_of_a_draw_are_those_of_the_whole_distribution(
    api: Api, cut: dict[str, Any], own: Own, asked: Asked
) -> None:
    """At temperature 1 with nothing cut, whatever was drawn from: what our own engine says of the same tokens."""
    rows = prompts(8)
    answers = asked(rows, Sampling(samples_per_prompt=2, max_new_tokens=24, **cut), seeds(8), api=api)
    assert all(one["error"] is None for one in answers)
    assert furthest([one["logprobs"] for one in answers], reread(own, rows, answers)) <= CLOSE


@pytest.mark.parametrize("api", TOKENS)
def test_no_two_of_256_answers_to_repeated_prompts_are_the_same(api: Api, asked: Asked) -> None:
    """And a prompt's answers are a function of its seed: again the same, fewer are the first ones, alone or not."""
    rows, each = prompts(16, distinct=2), Sampling(samples_per_prompt=16, max_new_tokens=24)
    answers = asked(rows, each, seeds(16), api=api)
    drawn = [tuple(one["response_ids"]) for one in answers]
    assert len(drawn) == len(set(drawn)) == 256
    few = asked(rows, Sampling(samples_per_prompt=5, max_new_tokens=24), seeds(16), api=api)
    assert [one["response_ids"] for one in few] == [one["response_ids"] for one in answers if one["sample_index"] < 5]
    alone = asked(rows.slice(3, 1), each, seeds(16)[3:4], api=api, separately=True)
    assert [tuple(one["response_ids"]) for one in alone] == drawn[48:64]


def test_given_tokens_are_scored_as_our_own_engine_scores_them(own: Own, token_model: HttpTokenModel) -> None:
    drawn = np.random.default_rng(9)
    rows = [drawn.integers(0, 259, length) for length in (2, 7, 40, 200, CONTEXT - 1)]
    theirs, ours = token_model.logprobs(rows).to_pylist(), own.frozen.logprobs(rows).to_pylist()
    assert furthest(theirs, ours) <= CLOSE
    (their_ids, their_values), (our_ids, our_values) = token_model.top_k(rows, 5), own.frozen.top_k(rows, 5)
    assert [row[1:] for row in their_ids.to_pylist()] == [row[1:] for row in our_ids.to_pylist()]
    flat = [
        [[value for token in row[1:] for value in token] for row in one.to_pylist()]
        for one in (their_values, our_values)
    ]
    assert furthest(*flat) <= CLOSE


def test_an_answer_ends_where_the_model_reads_no_further_and_a_prompt_without_room_is_refused(asked: Asked) -> None:
    ids = [[5, 6, 7], [9] * (CONTEXT - 2), [9] * (CONTEXT + 9), []]
    rows = pa.table({"prompt_ids": pa.array(ids, pa.list_(pa.int32()))})
    answers = asked(rows, Sampling(max_new_tokens=8, greedy=True), seeds(4))
    assert [one["error"] is None for one in answers] == [True, True, False, False]
    assert [len(one["response_ids"] or []) for one in answers] == [8, 2, 0, 0] and answers[1][
        "finish_reason"
    ] == "length"
    assert all(one["error"].startswith("400: ") for one in answers[2:]), answers


@pytest.mark.parametrize("how", ["chat", "completions", "generate"])
def test_a_command_gets_the_same_greedy_texts_from_the_server_and_from_the_folder(
    how: str, folder: Path, server: VllmServer | OwnServer, tmp_path: Path
) -> None:
    """From conversations: in chat the server's template and tokenizer, elsewhere ours. Where an answer is cut inside a
    letter the server's text ends before it; with tokens we see the half that is there.
    """
    texts = [f"Question {number}: what comes after {number * 7}?" for number in range(32)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    settings = "" if how == "chat" else f",api={how},tokenizer={folder}"
    made = []
    for model in (f"{server.reference}{settings}", str(folder)):
        command = ("Generate", "--model", model, "--prompts", "prompts.jsonl", "--greedy", "--max-new-tokens", "64")
        done = luigi(tmp_path, *command, module="pipelines")
        assert done.returncode == 0, done.stderr
        samples = Dataset.open(done.stdout.split()[-1])
        assert samples.num_rows == 32
        names = ["prompt_id", "response", "finish_reason", *(["response_ids"] if how != "chat" else [])]
        rows = samples.read(names).sort_by("prompt_id").to_pylist()
        made.append([{**row, "response": row["response"].rstrip(HALF if how == "chat" else "")} for row in rows])
    assert made[0] == made[1]
