"""A judge over HTTP: conversations out, text in; keys, addresses, what a server says of itself."""

from __future__ import annotations

import html
import json
import logging
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pytest

from datakit.clients import REPLIES, Judge, Sampling
from datakit.clients.http import Address, Asking, HttpJudge, Limits
from datakit.clients.http.address import Key
from schemas.errors import ConfigError, ServiceError
from schemas.rows.conversation import MESSAGES
from schemas.rows.usage import USAGE_NAMES
from tests.model_server import ModelServer, Raw, drawn, http

SAMPLING = Sampling(max_new_tokens=16)


def conversations(*texts: str) -> pa.Array:
    return pa.array([[{"role": "user", "content": text}] for text in texts], MESSAGES)


def seeds(count: int) -> np.ndarray:
    return np.arange(1, count + 1, dtype=np.uint64) << np.uint64(20)


def asked(server: ModelServer, *texts: str, key: str = "", **options: object) -> pa.Table:
    judge = HttpJudge(Asking.opened(Address.of(server.reference), Key(key), Limits(backoff=0.01)))
    try:
        assert isinstance(judge, Judge)
        return judge.judge(conversations(*texts), SAMPLING, seeds(len(texts)), **options)
    finally:
        judge.close()


def test_every_conversation_has_its_reply_in_its_place() -> None:
    with ModelServer(latency=0.01) as server:
        texts = [f"question {number}" for number in range(40)]
        replies = asked(server, *texts)
        schema = {"type": "object"}
        asked(server, "one", answer_schema=schema)
    assert replies.schema.names == [*REPLIES.names, *USAGE_NAMES] and replies["error"].null_count == 40
    expected = [f"{drawn(text, (number + 1) << 20)} {text}" for number, text in enumerate(texts)]
    assert replies["reply"].to_pylist() == expected and set(replies["finish_reason"].to_pylist()) == {"stop"}
    assert server.most_under_way > 8 and max(server.asked.values()) == 1
    assert server.bodies[-1]["response_format"]["json_schema"]["schema"] == schema


def test_reasoning_refusals_and_what_is_no_answer_are_told_apart() -> None:
    def odd(server: ModelServer, body: dict, answer: dict) -> Raw | None:
        text, choice = body["messages"][-1]["content"], answer["choices"][0]
        if text == "think":
            choice["message"] = {"content": "yes", "reasoning_content": "because"}
        if text == "refuse":
            choice["message"] = {"content": None, "refusal": "I will not"}
        if text == "empty":
            choice["message"] = {"content": None}
        if text == "long":
            return Raw(http(400, b'{"error": {"message": "16 is \\u001b[31mtoo long"}}'))
        return None

    with ModelServer(faults=odd) as server:
        rows = asked(server, "think", "refuse", "empty", "long").to_pylist()
    assert [row["reply"] for row in rows] == ["yes", "I will not", None, None]
    assert [row["finish_reason"] for row in rows] == ["stop", "refusal", None, None]
    assert rows[0]["reasoning"] == "because"
    assert rows[2]["error"] == "a choice of the reply has no content"
    assert rows[3]["error"] == "400: 16 is \\u001b[31mtoo long"


def test_a_key_is_sent_and_said_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    secret = "sk-planted-0123456789"
    monkeypatch.setenv("JUDGE_KEY", secret)
    key = Key.named("JUDGE_KEY")
    assert secret not in repr(key) + str(vars(Limits()))
    with ModelServer(key=secret) as server:
        assert asked(server, "one", key=secret)["error"].null_count == 1
        server.key = "another"
        with pytest.raises(ServiceError, match="refuses every request") as fault:
            asked(server, "one", key=secret)
    assert secret not in fault.value.render() and "[key]" in fault.value.found


@pytest.mark.parametrize("key", ["sk-planted-0123456789", 'aA/+="&<\\\\0123456789', "sk/planted+key==0123"])
def test_a_key_that_a_server_sends_back_is_cut_out_however_it_is_written(
    key: str, caplog: pytest.LogCaptureFixture
) -> None:
    forms = [
        key,
        json.dumps(key)[1:-1],
        json.dumps(key)[1:-1].replace("/", "\\/"),
        quote(key, safe=""),
        html.escape(key),
    ]

    def echo(server: ModelServer, body: dict, answer: dict) -> Raw | None:
        text = body["messages"][-1]["content"]
        answer["choices"][0]["message"]["content"] = f"you sent {key}"
        answer["system_fingerprint"] = key
        headers = {"X-Echo": f"Bearer {key}"}
        if text.isdecimal():
            return Raw(http(422, b"x" * 150 + forms[int(text)].encode(), headers))
        if text == "redirect":
            return Raw(http(307, b"", {"Location": f"http://elsewhere/?key={quote(key, safe='')}"}))
        return Raw(http(200, json.dumps(answer).encode(), headers))

    with caplog.at_level(logging.DEBUG), ModelServer(key=key, faults=echo) as server:
        made = asked(server, "answer", *map(str, range(len(forms))), key=key)
        assert server.asked.total() == 1 + len(forms)
        with pytest.raises(ServiceError, match="sends to another address") as fault:
            asked(server, "redirect", key=key)
    seen = str(made.to_pylist()) + fault.value.render() + caplog.text
    assert made["reply"][0].as_py() == "you sent [key]" and made["server"][0].as_py() == "m [key]"
    half = len(key) // 2
    assert not [form for form in (*forms, key[:half], repr(key)) if form in seen]


def test_a_short_key_stays_in_answers_of_which_it_may_be_a_word() -> None:
    assert Key("choice").cut_from_data(b'{"choices": 1}') == b'{"choices": 1}'
    assert Key("choice").cut_from("no choice") == "no [key]" and Key().cut_from_data(b"") == b""


def test_an_address_holds_no_secret_and_names_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    both = Address.of("http://a:1/v1/+https://b/v1#org/model-7b")
    assert (both.bases, both.model, both.is_private) == (("http://a:1/v1", "https://b/v1"), "org/model-7b", False)
    assert Address.of("http://127.0.0.1:8000/v1#m").is_private
    for wrong in (
        "http://u:p@h/v1#m",
        "http://h/v1?key=x#m",
        "http://h:99999/v1#m",
        "http:///v1#m",
        "http://a/+http://a#m",
    ):
        with pytest.raises(ConfigError) as fault:
            Address.of(wrong)
        assert "u:p" not in fault.value.render() and "key=x" not in fault.value.render()
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    for name in ("NO_SUCH_KEY", "sk-planted-0123456789"):
        with pytest.raises(ConfigError) as fault:
            Key.named(name)
        assert "sk-planted" not in fault.value.render()
