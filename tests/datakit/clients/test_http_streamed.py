"""Answers in pieces: the same as those that come at once, time-outs from piece to piece, streams that are no answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from datakit.clients import Sampling
from datakit.clients.http import Address, Asking, HttpGenerator, HttpJudge, Limits
from datakit.clients.http.address import Key
from datakit.clients.http.streamed import BrokenOff, put_together
from datakit.tokenizers.tokenizer import Tokenizer
from schemas import MESSAGES
from schemas.errors import ServiceError
from tests.model_server import STREAM_HEAD, Body, ModelServer, Raw, events
from tests.trainers.weights import tiny

SAMPLING = Sampling(samples_per_prompt=3, max_new_tokens=8)
FAST = Limits(backoff=0.01, tries=2)


def asked(server: ModelServer, limits: Limits = FAST, count: int = 4, **how: Any) -> list[dict[str, Any]]:
    turns = [[{"role": "user", "content": f"question {number} äöü"}] for number in range(count)]
    ids = pa.array([[number + 1, 7, 3] for number in range(count)], pa.list_(pa.int32()))
    generator = HttpGenerator(Asking.opened(Address.of(server.reference), Key(), limits), **how)
    try:
        rows = pa.table({"messages": turns, "prompt_ids": ids, "prompt": ["text"] * count})
        made = generator.generate(rows, SAMPLING, np.arange(1, count + 1, dtype=np.uint64) << np.uint64(20))
        return made.to_pylist()
    finally:
        generator.close()


@pytest.mark.parametrize("api", ["chat", "completions", "tokens"])
def test_answers_in_pieces_are_those_that_come_at_once(api: str, tmp_path: Path) -> None:
    how: dict[str, Any] = {"api": "chat" if api == "chat" else "completions"}
    if api == "tokens":
        how["tokenizer"] = Tokenizer.of_folder(str(tiny.write("llama", tmp_path / "hf")))
    with ModelServer() as server:
        whole, pieces = asked(server, **how), asked(server, stream=True, **how)
    assert whole == pieces and all(row["error"] is None for row in whole)
    assert {row["request_completion_tokens"] for row in pieces} == {15}
    assert sum(bool(body.get("stream")) for body in server.bodies) == 4
    assert all(body["stream_options"] == {"include_usage": True} for body in server.bodies if "stream" in body)


def test_a_judges_reply_in_pieces_is_the_one_that_comes_at_once() -> None:
    turns = pa.array([[{"role": "user", "content": "which?"}]], MESSAGES)
    made = []
    with ModelServer() as server:
        for stream in (False, True):
            judge = HttpJudge(Asking.opened(Address.of(server.reference), Key(), FAST), stream=stream)
            made.append(judge.judge(turns, Sampling(max_new_tokens=8), np.array([5], np.uint64)).to_pylist())
            judge.close()
    assert made[0] == made[1] and made[0][0]["reply"] and server.bodies[-1]["stream"]


def test_the_first_byte_is_that_of_the_first_token_and_each_piece_may_take_as_long() -> None:
    def slow(pause: float, at: int) -> Any:
        def fault(server: ModelServer, body: Body, answer: Body) -> Raw:
            parts = events(answer, chat=True)
            waits = [(pause if number == at else 0.03, part) for number, part in enumerate(parts)]
            return Raw(STREAM_HEAD, pieces=waits)

        return fault

    limits = Limits(backoff=0.01, tries=1, first_byte=0.5)
    with ModelServer(faults=slow(0.03, 0)) as server:
        made = asked(server, limits, count=1, stream=True)
        assert all(row["error"] is None for row in made)
        for place in (0, 5):  # before the first piece, and in the middle
            server.faults = slow(1.5, place)
            with pytest.raises(ServiceError, match="does not answer") as error:
                asked(server, limits, count=1, stream=True)
            assert error.value.code == 13 and "nothing came for" in error.value.found


def piece(**choice: Any) -> bytes:
    return b"data: " + json.dumps({"model": "m", "choices": [{"index": 0, **choice}]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
END = piece(delta={}, finish_reason="stop")


def test_pieces_are_put_together_as_they_stand() -> None:
    data = b": ping\r\nevent: x\r\n" + piece(delta={"role": "assistant", "content": None, "reasoning_content": "a"})
    data += piece(delta={"content": "b", "reasoning_content": "c"}) + piece(delta={"content": "d"}) + END
    usage = b'data: {"choices": [], "usage": {"prompt_tokens": 2}, "system_fingerprint": "f"}\n\n'
    assert put_together(data + usage + DONE + piece(text="behind the end")) == {
        "model": "m", "usage": {"prompt_tokens": 2}, "system_fingerprint": "f",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"content": "bd", "reasoning_content": "ac"}}],
    }  # fmt: skip
    assert put_together(b'data: {"choices":\ndata: []}\n\n' + DONE) == {"choices": []}
    for broken in (b"", piece(text="a"), END, b'data: {"error": {"message": "out of luck"}}\n\n' + DONE):
        with pytest.raises(BrokenOff):
            put_together(broken)


@pytest.mark.parametrize(
    ("data", "words", "tries"),
    [
        (piece(delta={"content": "a"}) + END, "the stream ended before its end", 2),
        (b'data: {"error": {"message": "out of luck"}}\n\n' + DONE, "out of luck", 2),
        (piece(delta={"content": "a"}) + DONE, "does not say why the answer ended", 1),
        (piece(delta={"content": "a"}) + END + END + DONE, "a choice goes on behind its end", 1),
        (piece(delta={"content": 3}) + piece(delta={"content": "a"}) + END + DONE, "the reply is no JSON", 1),
        (piece(delta={"content": 3}) + END + DONE, "content is no text", 1),
        (b"data: {\n\n" + DONE, "the reply is no JSON", 1),
        (b"data: [1]\n\n" + DONE, "a piece is no object", 1),
        (b'data: {"choices": [3]}\n\n' + DONE, "the reply is no JSON", 1),
        (b'data: {"choices": [{"index": [], "text": "a"}]}\n\n' + DONE, "the reply is no JSON", 1),
        (b'data: {"choices": [{"index": "x"}, {"index": 1}]}\n\n' + DONE, "the reply is no JSON", 1),
        (DONE, "missing in the reply", 1),
    ],
)
def test_a_stream_that_is_no_answer_is_set_aside_in_words(data: bytes, words: str, tries: int) -> None:
    with ModelServer(faults=lambda *_: Raw(STREAM_HEAD, pieces=[(0, data)])) as server:
        made = asked(server, count=1, stream=True)
    assert words in made[0]["error"] and all(row["error"] for row in made)
    assert server.asked.total() == tries
