"""Our own client and its backend against our own server, over a port of the loopback interface."""

from __future__ import annotations

import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from commands import luigi

from datakit.clients import TOKENIZED_PROMPTS, Sampling
from datakit.clients.seeds import base_seed
from datakit.op import NOTHING
from pipelines.backends.http import Http, Served
from schemas import MESSAGES, Column, Schema
from schemas.dataset import Dataset
from tests.pipelines.serve.served import TOKEN, Running, in_process, policy, reward, tokenizer

SEEDS = np.array([(1 << 63) + (5 << 20), 77 << 16, 3 << 40], np.uint64)
PROMPTS = [[5, 60, 61], [9, 9, 200], [42, 71, 78, 78, 81]]
TURNS = [[{"role": "user", "content": text}] for text in ("one", "two", "three")]


@pytest.fixture(scope="module")
def server() -> Any:
    with Running(policy(), reward(), slots=16) as running:
        yield running


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", TOKEN)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    for name, data in tokenizer().files.items():
        (tmp_path / name).write_bytes(data)
    return str(tmp_path)


def opened(server: Running, role: str, takes: Any = NOTHING, name: str = "m", **settings: Any) -> Any:
    return Http().open(f"{server.base}#{name}", role, takes, Served(key="MY_KEY", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("api", "stream"), [("completions", False), ("completions", True), ("generate", False)]
)  # fmt: skip
def test_tokens_and_log_probabilities_are_the_samplers(server: Running, folder: str, api: Any, stream: bool) -> None:
    rows = pa.table({"prompt": ["", "", ""], "prompt_ids": pa.array(PROMPTS, pa.list_(pa.int32()))})
    client = opened(server, "generator", TOKENIZED_PROMPTS, tokenizer=folder, api=api, stream=stream)
    made = client.generate(rows, Sampling(samples_per_prompt=4, max_new_tokens=24), SEEDS).to_pylist()
    assert len(made) == 12
    for row in made:
        seed = base_seed(int(SEEDS[row["prompt_row"]])) + row["sample_index"]
        expected = in_process(PROMPTS[row["prompt_row"]], seed, 24)
        assert (row["response_ids"], row["response"]) == (expected["response_ids"], expected["response"])
        np.testing.assert_allclose(row["logprobs"], expected["logprobs"], atol=2e-5)
        assert row["finish_reason"] == expected["finish_reason"]
    client.close()


def test_given_tokens_are_scored_as_here(server: Running) -> None:
    client = opened(server, "model")
    rows, network = [np.array(ids, np.int64) for ids in PROMPTS], policy().network
    for given, own in zip(client.logprobs(rows).to_pylist(), network.logprobs(rows).to_pylist(), strict=True):
        np.testing.assert_allclose(given, own, atol=2e-5)
    (ids, values), (own_ids, own_values) = client.top_k(rows, 4), network.top_k(rows, 4)
    assert [row[1:] for row in ids.to_pylist()] == [row[1:] for row in own_ids.to_pylist()]
    for given, own in zip(values.to_pylist(), own_values.to_pylist(), strict=True):
        np.testing.assert_allclose(given[1:], own[1:], atol=2e-5)
    client.close()


@pytest.mark.parametrize("form", ["classify", "pooling", "reward"])
def test_rewards_are_the_networks(server: Running, form: Any) -> None:
    takes = Schema("answered", 1, (Column("messages", MESSAGES, ""), Column("response", pa.string(), "")))
    client = opened(server, "scorer", takes, name="r", reward=form, outputs="help+harm")
    table = pa.table({"messages": TURNS, "response": ["a", "b", "c"]})
    made = client.score(table)
    texts = [
        reward().texts.conversation([*turns, {"role": "assistant", "content": text}], answer=False)
        for turns, text in zip(TURNS, "abc", strict=True)
    ]
    own = reward().network.scores(texts)
    for at, name in enumerate(("help", "harm")):
        np.testing.assert_allclose(made[name].to_pylist(), own[:, at], atol=2e-5)
    client.close()


@pytest.mark.slow
def test_a_connection_that_is_idle_for_a_while_is_used_again(server: Running) -> None:
    """A client that is busy for seconds sends its next request on a connection that is still open."""
    ask = f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), 30) as connection:
        for _ in range(2):
            connection.sendall(ask)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
            time.sleep(7)


@pytest.mark.slow
def test_answers_rewards_and_verdicts_come_over_the_port_from_the_command_line(folder: str, tmp_path: Path) -> None:
    """The judge reads rubrics of several thousand letters, so its model has many positions."""
    writer = policy(positions=8192)
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n{"prompt": "three"}\n')

    def command(*words: str) -> Dataset:
        done = luigi(tmp_path, *words, module="pipelines", MY_KEY=TOKEN)
        assert done.returncode == 0, done.stderr
        assert TOKEN not in done.stdout + done.stderr
        return Dataset.open(done.stdout.split()[-1])

    with Running(writer, reward(), slots=16) as server:
        tokens = f"{server.base}#m,key=MY_KEY,determinism=exact,tokenizer={folder}"
        asked = ("Generate", "--prompts", "prompts.jsonl", "--samples-per-prompt", "3", "--max-new-tokens", "12")
        answers = command(*asked, "--model", tokens)
        rows = answers.read().to_pylist()
        assert len(rows) == 9
        for row in rows:
            network = writer.network.logprobs([np.array([*row["prompt_ids"], *row["response_ids"]], np.int64)])
            drawn = network.to_pylist()[0][len(row["prompt_ids"]) :]
            np.testing.assert_allclose(row["logprobs"], drawn, atol=2e-5)
        label = ("Label", "--data", answers.url, "--op")
        rewards = (
            command(*label, "reward", "--model", f"{server.base}#r,key=MY_KEY,outputs=help+harm").read().to_pylist()
        )
        for row in rewards:
            turns = [*row["messages"], {"role": "assistant", "content": row["response"]}]
            [[helps, _]] = reward().network.scores([reward().texts.conversation(turns, answer=False)])
            assert row["help"] == pytest.approx(helps, abs=2e-5)
        judged = command(*label, "judge", "--model", f"{server.base}#m,key=MY_KEY").read().to_pylist()
        assert len(judged) == 9 and all(row["judge_error"] == 0 for row in judged)
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert TOKEN.encode() not in written
