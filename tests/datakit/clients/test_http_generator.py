"""A policy over HTTP: seeds, tokens where the server has them and null where not, ends of answers, what is none."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models, pre_tokenizers

from datakit.apply import apply
from datakit.clients import ANSWERS, Sampling
from datakit.clients.http import Address, Asking, HttpGenerator, Limits, chat
from datakit.clients.http.address import Key
from datakit.clients.http.exchange import Reply
from datakit.clients.seeds import base_seed
from datakit.generate import Complete
from datakit.run.resource import Resource
from datakit.tokenize import Drawn
from datakit.tokenizers.tokenizer import Tokenizer
from schemas.errors import ConfigError, DataError, ServiceError
from tests.datakit import fakes
from tests.model_server import ModelServer, Raw, answer_ids, drawn, http, thought
from tests.trainers.weights import tiny

SAMPLING = Sampling(samples_per_prompt=3, max_new_tokens=8)
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
FAST = Limits(backoff=0.01, tries=2)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.of_folder(str(tiny.write("llama", tmp_path_factory.mktemp("hf") / "model")))


def prompts(count: int) -> pa.Table:
    turns = [[{"role": "user", "content": f"question {number}"}] for number in range(count)]
    ids = [[number + 1, 7, 3] for number in range(count)]
    rows = {"messages": turns, "prompt_ids": pa.array(ids, pa.list_(pa.int32())), "prompt": ["text"] * count}
    return pa.table(rows)


def asked(server: ModelServer, rows: pa.Table, sampling: Sampling = SAMPLING, **how: Any) -> list[dict[str, Any]]:
    generator = HttpGenerator(Asking.opened(Address.of(server.reference), Key(), FAST), **how)
    seeds = (np.arange(rows.num_rows, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    try:
        return ANSWERS.conform(generator.generate(rows, sampling, seeds)).to_pylist()
    finally:
        generator.close()


def test_no_two_answers_share_a_seed_and_more_of_them_go_on() -> None:
    bases = [base_seed(number * 0x9E3779B97F4A7C15 % 2**64) for number in range(64)]
    assert all(0 <= base < 2**63 and base % 2**16 == 0 for base in bases) and len(set(bases)) == 64
    with ModelServer() as server:
        rows = prompts(8)
        few, many = asked(server, rows), asked(server, rows, Sampling(samples_per_prompt=5, max_new_tokens=8))
        alone = asked(server, rows, separately=True)
    assert [one for one in many if one["sample_index"] < 3] == few == alone
    assert len({body["seed"] + n for body in server.bodies[8:16] for n in range(body["n"])}) == 8 * 5
    assert all("n" not in body for body in server.bodies[16:])


def test_a_server_of_text_gives_no_tokens_and_none_are_made_up() -> None:
    with ModelServer() as server:
        rows = asked(server, prompts(2))
    assert all(row["response_ids"] is None and row["logprobs"] is None and row["error"] is None for row in rows)
    assert rows[0]["response"] == f"{drawn('question 0', base_seed(0x9E3779B97F4A7C15))} question 0"


@pytest.mark.parametrize("api", ["completions", "generate"])
def test_tokens_and_log_probabilities_are_those_of_the_server(api: Any, tokenizer: Tokenizer) -> None:
    end = tokenizer.control[0] if tokenizer.control else ""
    stops = tuple(filter(None, (end, "\nUser:")))
    sampling = Sampling(samples_per_prompt=2, max_new_tokens=5, stop=stops, temperature=0.5, top_k=7)
    with ModelServer() as server:
        rows = asked(server, prompts(3), sampling, api=api, tokenizer=tokenizer)
    body = server.bodies[0]
    params = body if api == "completions" else body["sampling_params"]
    assert (params["stop"], params["max_tokens"], params["temperature"], params["top_k"]) == (["\nUser:"], 5, 0.5, 7)
    assert params.get("stop_token_ids", []) == [tokenizer.id_of(text) for text in stops if text == end]
    for row in rows:
        seed = base_seed((row["prompt_row"] + 1) * 0x9E3779B97F4A7C15 % 2**64) + row["sample_index"]
        ids = answer_ids([row["prompt_row"] + 1, 7, 3], seed, 5)
        assert row["response_ids"] == ids and row["finish_reason"] == "stop"
        assert np.allclose(row["logprobs"], [*map(thought, ids)])


def test_the_text_of_tokens_is_what_they_spell(tmp_path: Path) -> None:
    """Replies of vLLM 0.32: of a letter that is cut in two nothing is in the text, or the whole prompt before it."""
    inner = Library(models.BPE(vocab={letter: at for at, letter in enumerate(LETTERS)}, merges=[]))
    inner.decoder = decoders.ByteLevel()
    inner.save(str(tmp_path / "tokenizer.json"))
    a, b, half = LETTERS.index("a"), LETTERS.index("b"), LETTERS.index("\u00c3")
    cases = [
        ("a", [a, half], "length", "a\ufffd"),
        (" a", [a, half], "length", " a\ufffd"),
        ("prompt\ufffdab", [a, b], "length", "ab"),
        ("a", [a, b], "stop", "a"),
        ("ab", [a, b], "length", "ab"),
    ]

    def recorded(server: ModelServer, body: Any, answer: Any) -> Raw:
        text, ids, finish, _ = cases[body["prompt"][0] - 1]
        choice = {"index": 0, "text": text, "token_ids": ids, "finish_reason": finish}
        choice["logprobs"] = {"token_logprobs": [-1.0] * len(ids)}
        return Raw(http(200, json.dumps({"choices": [choice]}).encode()))

    with ModelServer(faults=recorded) as server:
        tokenizer = Tokenizer.of_folder(str(tmp_path))
        rows = asked(server, prompts(5), Sampling(max_new_tokens=8), api="completions", tokenizer=tokenizer)
    assert [row["response"] for row in rows] == [spelled for *_, spelled in cases]


def test_an_answer_that_cannot_be_one_is_an_error_beside_those_that_are() -> None:
    def odd(server: ModelServer, body: dict, answer: dict) -> Raw | None:
        text, choices = body["messages"][-1]["content"], answer["choices"]
        if text == "question 0":
            choices[1]["index"] = 0
        if text == "question 1":
            del choices[1]
        if text == "question 2":
            choices[2]["index"] = 9
        if text == "question 3":
            return Raw(http(400, b'{"error": {"message": "the prompt is too long"}}'))
        if text == "question 4":
            choices[0]["message"]["content"] = "half \ud800 a letter"
            choices[1]["finish_reason"] = None
        return None

    with ModelServer(faults=odd) as server:
        rows = asked(server, prompts(6))
    faults = {(row["prompt_row"], row["sample_index"]): row["error"] for row in rows if row["error"]}
    assert len(rows) == 18 and set(faults) == {
        *((0, 0), (0, 1), (1, 1), (2, 0), (2, 1), (2, 2), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1)),
    }
    assert faults[0, 0] == "choice 0 stands 2 times in the reply" and faults[0, 1] == "missing in the reply"
    assert faults[2, 0] == "the reply has a choice 9, asked for 3"
    assert faults[3, 2] == "400: the prompt is too long" and faults[4, 0] == "content holds half of a character"


def opened(reference: str, **how: Any) -> HttpGenerator:
    return HttpGenerator(Asking.opened(Address.of(reference), Key(), FAST), **how)


def test_samples_say_what_a_server_gave_and_operations_ask_for_it(put: Any, tmp_path: Path) -> None:
    given = put(fakes.prompts(7), (4,))

    def odd(server: ModelServer, body: dict, answer: dict) -> Raw | None:
        if "3" in body["messages"][-1]["content"]:
            return Raw(http(422, b'{"detail": "no \\u001b[1m"}'))
        answer["choices"][0]["message"]["reasoning_content"] = "hm"
        return None

    with ModelServer(faults=odd) as server:
        gives = ("response", "reasoning")
        resource = Resource("m", functools.partial(opened, server.reference), outputs=gives, concurrency=4)
        made = apply(Complete(sampling=SAMPLING), given, str(tmp_path / "s"), resources={"generator": resource})
    table, rejected = made.read(), made.read_rejected()
    refused = sum("3" in turns[-1]["content"] for turns in given.read()["messages"].to_pylist())
    assert table.num_rows + rejected.num_rows == 21 and rejected.num_rows == 3 * refused
    assert table["response_ids"].null_count == table["logprobs"].null_count == table.num_rows
    assert made.schema.version == 3 and set(table["reasoning"].to_pylist()) == {"hm", None}
    with pytest.raises(DataError, match="response_ids may be null; logprobs may be null"):
        apply(Drawn(), made, str(tmp_path / "tokens"))


def test_a_generator_that_promised_tokens_and_gives_none_is_refused(put: Any, tmp_path: Path) -> None:
    with ModelServer() as server:
        resource = Resource("m", functools.partial(opened, server.reference))
        with pytest.raises(ServiceError, match="cannot be used"):
            apply(
                Complete(sampling=SAMPLING),
                put(fakes.prompts(2)),
                str(tmp_path / "s"),
                resources={"generator": resource},
            )


def test_every_stop_text_is_sent_and_is_cut_here_too() -> None:
    """However many: what a server leaves in the text does not stay there."""
    stops = tuple(f"<{number}>" for number in range(40))
    asked = chat.request("m", [{"role": "user", "content": "x"}], Sampling(stop=stops), 0)
    assert asked.body["stop"] == [*stops]
    choice = {"index": 0, "message": {"content": "before<39>behind"}, "finish_reason": "stop"}
    reply = Reply(200, {}, json.dumps({"choices": [choice]}).encode(), 0.0)
    assert chat.read(reply, 1, stops)["choices"]["0"]["text"] == "before"


def test_a_client_without_its_library_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ConfigError, match="httpx2, which is not installed") as fault:
        Asking.opened(Address.of("http://127.0.0.1:1/v1#m"), Key(), Limits())
    assert fault.value.slug == "missing-library" and "[http]" in (fault.value.next or "")
