"""What servers do wrong, each once: a run goes on, sets rows aside in the server's words, or stops; no row is lost."""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datakit.apply import apply
from datakit.clients import Sampling
from datakit.clients.http import Address, Asking, HttpGenerator, Limits, asking
from datakit.clients.http.address import Key
from datakit.clients.http.generator import Api
from datakit.generate import Complete
from datakit.run.resource import Resource
from datakit.tokenizers.tokenizer import Tokenizer
from schemas.dataset import Dataset
from schemas.errors import IntegrityError, QuiverError, ServiceError
from tests.conftest import ROOT
from tests.datakit import fakes
from tests.model_server import Body, ModelServer, Raw, http, zipped
from tests.trainers.weights import tiny

OP = Complete(sampling=Sampling(samples_per_prompt=2, max_new_tokens=6), rows_per_chunk=5)
LIMITS = Limits(concurrency=4, connect=5.0, first_byte=1.0, total=2.0, tries=3, backoff=0.02, patience=20.0)
ROWS, EACH = 12, 2
BAD = 4
"""The prompt that something happens to; its tokens begin with its number."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.write("llama", tmp_path_factory.mktemp("hf") / "model"))


def opened(reference: str, folder: str, api: Api) -> HttpGenerator:
    tokenizer = Tokenizer.of_folder(folder) if folder else None
    return HttpGenerator(Asking.opened(Address.of(reference), Key(), LIMITS), api, tokenizer)


def answered(server: ModelServer, folder: str, prompts: Dataset, out: Path, api: Api = "completions") -> Dataset:
    opening = functools.partial(opened, server.reference, folder, api)
    resource = Resource("m", opening, outputs=() if folder else ("response",), concurrency=3)
    return apply(OP, prompts, str(out), resources={"generator": resource})


def once(happens: Callable[[Body], Raw | None], times: int = 1) -> Callable[..., Raw | None]:
    """What happens the first `times` times to the prompt that is `BAD`, and never again."""
    left = {"times": times}

    def fault(server: ModelServer, body: Body, answer: Body) -> Raw | None:
        if body["prompt"][0] != BAD or left["times"] <= 0:
            return None
        left["times"] -= 1
        return happens(answer)

    return fault


def changed(**choice: Any) -> Callable[[Body], Raw | None]:
    """The first choice of the answer, other than it is."""

    def change(answer: Body) -> Raw | None:
        answer["choices"][0] |= choice
        return Raw(http(200, json.dumps(answer).encode()))  # NaN as Python writes it

    return change


def without_second(answer: Body) -> None:
    del answer["choices"][1]


def with_second_twice(answer: Body) -> None:
    answer["choices"].append(answer["choices"][1])


BURST = Raw(http(429, b'{"error": {"message": "slow down"}}', {"Retry-After": "0.05"}))
WHOLE = json.dumps({"choices": []}).encode()

GOES_ON = {
    "429 burst": once(lambda answer: BURST, LIMITS.tries),
    "500 that goes by": once(lambda answer: Raw(http(500, b"oops")), 2),
    "503": once(lambda answer: Raw(http(503, b"{}")), 2),
    "slow first byte": once(lambda answer: Raw(http(200, b"{}"), before=1.4)),
    "hang": once(lambda answer: Raw(http(200, b"{", length=9), after=3.0, reset=True)),
    "reset mid-stream": once(lambda answer: Raw(http(200, b'{"choices"', length=400), reset=True), 2),
    "an answer that was broken off": once(changed(finish_reason="abort"), 2),
    "gzip": once(lambda answer: Raw(zipped(json.dumps(answer).encode()))),
}
"""Faults after which every answer is there."""

SET_ASIDE = {
    "500": (once(lambda answer: Raw(http(500, b"<h1>out of luck</h1>")), 9), 2, "500: out of luck"),
    "truncated JSON": (once(lambda answer: Raw(http(200, json.dumps(answer).encode()[:-9]))), 2, "reply is no JSON"),
    "no id": (once(changed(token_ids=[1, -2, 3])), 1, "token_ids holds what is no token id"),
    "id beyond the vocabulary": (
        once(changed(token_ids=[9_999_999], logprobs={"token_logprobs": [-1.0]})), 1, "token id 9999999 is none of the",
    ),
    "ids of another length": (once(changed(token_ids=[1])), 1, "6 log-probabilities for 1 tokens"),
    "NaN": (once(changed(logprobs={"token_logprobs": [float("nan")]})), 2, "NaN is no JSON"),
    "null": (once(changed(logprobs={"token_logprobs": [None] * 6})), 1, "holds what is no log-probability"),
    "missing choice": (once(without_second), 1, "missing in the reply"),
    "duplicate choice": (once(with_second_twice), 1, "choice 1 stands 2 times"),
    "10 MB": (once(lambda answer: Raw(http(200, b" " * 10_000_000 + WHOLE))), 2, "is longer than 1,048,576 bytes"),
    "gzip bomb": (once(lambda answer: Raw(zipped(b" " * 50_000_000 + WHOLE))), 2, "the reply is longer than 1,048,576"),
    "broken gzip": (once(lambda answer: Raw(http(200, b"x" * 99, {"Content-Encoding": "gzip"}))), 2, "is no gzip"),
    "another packing": (once(lambda answer: Raw(http(200, b"x", {"Content-Encoding": "br"}))), 2, "packed as br"),
    "ANSI in words": (
        once(lambda answer: Raw(http(400, b'{"error": "\\u001b[31mred\\u202e"}'))), 2, "400: \\u001b[31mred\\u202e",
    ),
}  # fmt: skip
"""Faults that set so many answers aside, in these words."""


@pytest.fixture(scope="module")
def prompts(put: Any) -> Dataset:
    return put(fakes.prompts(ROWS), (7,))


@pytest.fixture(scope="module")
def calm(folder: str, prompts: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """What a server without faults answers."""
    with ModelServer() as server:
        return answered(server, folder, prompts, tmp_path_factory.mktemp("calm") / "out")


@pytest.mark.parametrize("name", GOES_ON)
def test_what_goes_by_costs_no_answer(name: str, folder: str, prompts: Dataset, calm: Dataset, tmp_path: Path) -> None:
    with ModelServer(faults=GOES_ON[name]) as server:
        made = answered(server, folder, prompts, tmp_path / "out")
    assert made.content_digest == calm.content_digest and not made.rejected
    assert sorted(server.asked.values())[:-1] == [1] * (ROWS - 1)


@pytest.mark.parametrize("name", SET_ASIDE)
def test_what_is_no_answer_is_set_aside_in_the_servers_words(
    name: str, folder: str, prompts: Dataset, calm: Dataset, tmp_path: Path
) -> None:
    fault, count, words = SET_ASIDE[name]
    with ModelServer(faults=fault) as server:
        made = answered(server, folder, prompts, tmp_path / "out")
    rejected = made.read_rejected()
    assert rejected is not None
    assert rejected["prompt_id"].to_pylist() == [f"prompt_id {BAD}"] * count
    assert all(words in text for text in rejected["threshold"].to_pylist()), rejected["threshold"]
    whole = {row["sample_id"]: row for row in calm.read().to_pylist()}
    rows = made.read().to_pylist()
    assert len(rows) == ROWS * EACH - count and all(whole[row["sample_id"]] == row for row in rows)


STOPS = {
    "redirect": (
        Raw(http(307, b"", {"Location": "http://127.0.0.1:1/\x1b[1m"})),
        ServiceError,
        "sends to another address",
    ),
    "401": (Raw(http(401, b'{"error": "who are you"}')), ServiceError, "refuses every request"),
    "404": (Raw(http(404, b'{"detail": "Not Found"}')), ServiceError, "refuses every request"),
    "another model": (None, IntegrityError, "answers as another model"),
    "hangs for good": (Raw(http(200, b"{}"), before=9.0), ServiceError, "does not answer, asked 2 times"),
    "resets for good": (Raw(b"HTTP/1.1 200 OK\r\n", reset=True), ServiceError, "does not answer, asked 2 times"),
}


@pytest.mark.parametrize("name", STOPS)
def test_what_is_the_same_for_every_request_stops_the_run_and_the_next_one_goes_on(
    name: str, folder: str, prompts: Dataset, calm: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, kind, words = STOPS[name]

    def fault(server: ModelServer, body: Body, answer: Body) -> Raw | None:
        if body["prompt"][0] == BAD:
            answer["model"] = "somebody-else"
            return raw
        return None

    monkeypatch.setattr(f"{__name__}.LIMITS", replace(LIMITS, tries=2))
    with ModelServer(faults=fault) as server:
        with pytest.raises(kind, match=words) as error:
            answered(server, folder, prompts, tmp_path / "out")
        assert isinstance(error.value, QuiverError) and "\x1b" not in error.value.render()
        asked = server.asked.copy()
        server.faults = None
        made = answered(server, folder, prompts, tmp_path / "out")
    assert made.content_digest == calm.content_digest
    assert all(server.asked[one] <= 1 for one in server.asked if one not in asked)
    assert server.asked.total() <= ROWS + 2 * LIMITS.concurrency


def test_the_page_names_every_status_that_stops_a_run() -> None:
    row = re.search(
        r"^\| (401, .*?), a redirect \|", (ROOT / "docs/servers.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert row is not None and {int(status) for status in row[1].split(", ")} == {*asking._SAME_FOR_ALL}


def test_a_server_that_turns_everything_away_is_given_up_after_a_while(
    folder: str, prompts: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.LIMITS", replace(LIMITS, patience=0.4))
    with ModelServer(faults=lambda *_: BURST) as server:
        started = time.monotonic()
        with pytest.raises(ServiceError, match="has turned every request away") as error:
            answered(server, folder, prompts, tmp_path / "out")
    assert error.value.slug == "server-busy" and 0.4 < time.monotonic() - started < 60


def test_what_steers_a_terminal_is_text_like_any_other(prompts: Dataset, tmp_path: Path) -> None:
    steering = changed(text="\x1b[31mred\u202e\r")
    with ModelServer(faults=lambda server, body, answer: steering(answer)) as server:
        made = answered(server, "", prompts, tmp_path / "out")
    assert "\x1b[31mred\u202e\r" in made.read()["response"].to_pylist() and not made.rejected
