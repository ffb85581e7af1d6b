"""Who is refused and how: in the OpenAI dialect's shape, with the right status, and nobody else's answer is touched."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pytest

from pipelines.serve.answer_queue import AnswerQueue
from tests.pipelines.serve.served import POSITIONS, TOKEN, application, in_process, policy, reward
from tests.pipelines.serve.test_endpoints import HELLO, IDS, run
from tests.trainers.sampling import Sampling

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"

WRONG: list[tuple[str, Any, int, str]] = [
    (COMPLETIONS, [], 400, "no JSON object"),
    (COMPLETIONS, {}, 400, "prompt is neither text nor token ids"),
    (COMPLETIONS, {"prompt": []}, 400, "prompt is neither"),
    (COMPLETIONS, {"prompt": [-1]}, 400, "prompt is neither"),
    (COMPLETIONS, {"prompt": [259]}, 400, "0 .. 258"),
    (COMPLETIONS, {"prompt": [True]}, 400, "prompt is neither"),
    (COMPLETIONS, {"prompt": [[1], []]}, 400, "prompt is neither"),
    (COMPLETIONS, {"prompt": ""}, 400, "the prompt has no token"),
    (COMPLETIONS, {"prompt": [5] * POSITIONS}, 400, "no room for an answer"),
    (COMPLETIONS, {"prompt": "a", "n": 0}, 400, "n is 0"),
    (COMPLETIONS, {"prompt": "a", "n": 10**9}, 400, "n is 1000000000"),
    (COMPLETIONS, {"prompt": "a", "n": "2"}, 400, "n is no whole number"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 0}, 400, "max_tokens is 0"),
    (COMPLETIONS, {"prompt": "a", "max_tokens": 2.5}, 400, "max_tokens is no whole number"),
    (COMPLETIONS, {"prompt": "a", "temperature": -1}, 400, "temperature is -1"),
    (COMPLETIONS, {"prompt": "a", "temperature": 1e-9}, 400, "temperature is 1e-09"),
    (COMPLETIONS, {"prompt": "a", "temperature": True}, 400, "temperature is no number"),
    (COMPLETIONS, {"prompt": "a", "temperature": 10**400}, 400, "temperature is 1000"),
    (COMPLETIONS, {"prompt": "a", "top_p": -(10**400)}, 400, "top_p is -1000"),
    (COMPLETIONS, {"prompt": "a", "top_p": 0}, 400, "top_p is 0"),
    (COMPLETIONS, {"prompt": "a", "top_p": 1.5}, 400, "top_p is 1.5"),
    (COMPLETIONS, {"prompt": "a", "top_k": -2}, 400, "top_k is -2"),
    (COMPLETIONS, {"prompt": "a", "seed": 1 << 64}, 400, "seed is 1844"),
    (COMPLETIONS, {"prompt": "a", "stop": [""]}, 400, "stop is no list"),
    (COMPLETIONS, {"prompt": "a", "stop": ["\ud800"]}, 400, "stop is no list"),
    (COMPLETIONS, {"prompt": "a", "stop_token_ids": [999]}, 400, "stop_token_ids is no list"),
    (COMPLETIONS, {"prompt": "a", "logprobs": 21}, 400, "logprobs is 21"),
    (COMPLETIONS, {"prompt": "a", "logit_bias": {"5": 1}}, 400, "which this server does not do"),
    (COMPLETIONS, {"prompt": "a", "frequency_penalty": 0.5}, 400, "which this server does not do"),
    (COMPLETIONS, {"prompt": "a", "stream": True, "echo": True}, 400, "stream is for answers alone"),
    (COMPLETIONS, {"prompt": "a", "max_tokns": 5}, 400, "did you mean max_tokens"),
    (COMPLETIONS, {"prompt": "a", "model": "other"}, 404, "there is no model other"),
    (CHAT, {"messages": []}, 400, "no list of messages"),
    (CHAT, {"messages": [{"role": "wizard", "content": "a"}]}, 400, "role is none of"),
    (CHAT, {"messages": [{"role": "user", "content": 5}]}, 400, "content is no text"),
    (CHAT, {"messages": [{"role": "user", "content": "\udfff"}]}, 400, "content is no text"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "reads text alone"),
    (CHAT, {"messages": HELLO, "top_logprobs": 2}, 400, "top_logprobs is 2"),
    (CHAT, {"messages": HELLO, "tools": "x"}, 400, "tools is no list"),
    (CHAT, {"messages": [{"role": "user", "content": "a" * 4000}]}, 400, "no room for an answer"),
    ("/inference/v1/generate", {"sampling_params": {}}, 400, "token_ids is missing"),
    ("/inference/v1/generate", {"token_ids": [1], "sampling_params": {"nn": 1}}, 400, "sampling_params.nn is no field"),
    ("/score", {}, 400, "one of messages, conversations and input_ids"),
    ("/score", {"input_ids": [[1], [259]]}, 400, "0 .. 258"),
    ("/score", {"input_ids": [[5] * (POSITIONS + 1)]}, 400, "257 tokens"),
    ("/score", {"messages": HELLO, "model": "m"}, 404, "there is no model m"),
    ("/v1/nothing", {}, 404, "Not Found"),
    ("/health", {}, 405, "Method Not Allowed"),
]


def test_a_request_that_cannot_be_answered_is_refused_in_words() -> None:
    async def work(client: httpx2.AsyncClient, answer_queue: AnswerQueue) -> None:
        for path, body, status, words in WRONG:
            content = json.dumps(body).encode()
            answer = await client.post(path, content=content, headers={"Content-Type": "application/json"})
            fault = answer.json()["error"]
            assert (answer.status_code, words in fault["message"]) == (status, True), (path, body, answer.text)
            assert {*fault} == {"message", "type", "param", "code"} and "Traceback" not in answer.text
        assert (answer_queue.thread.running, answer_queue.thread.waiting) == (0, 0)
        fine = await client.post(COMPLETIONS, json={"prompt": IDS, "max_tokens": 3, "seed": 1})
        assert fine.json()["choices"][0]["text"] == in_process(IDS, 1, 3)["response"]

    run(work, judged=reward())


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe", b'{"prompt": NaN}', b'{"prompt": "a", "prompt": "b"}', b"[" * 100_000, b'{"seed": 1e999}'],
    ids=["empty", "cut", "bytes", "nan", "twice", "deep", "huge"],
)
def test_bytes_that_are_no_json_are_refused(content: bytes) -> None:
    typed = {"Content-Type": "application/json"}
    answer = run(lambda client, _: client.post(COMPLETIONS, content=content, headers=typed))
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "bad_json"


def test_nobody_asks_without_the_token_by_another_name_or_with_too_much() -> None:
    async def work(client: httpx2.AsyncClient, answer_queue: AnswerQueue) -> None:
        body = {"prompt": IDS, "max_tokens": 2}
        for given in (
            "",
            "Bearer",
            "Bearer wrong",
            f"Basic {TOKEN}",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            "Bearer é",
        ):
            answer = await client.post(COMPLETIONS, json=body, headers={"Authorization": given.encode()})
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key", given
            assert answer.headers["www-authenticate"] == "Bearer" and TOKEN not in answer.text
        for path in ("/v1/models", "/metrics", "/nowhere"):
            assert (await client.get(path, headers={"Authorization": ""})).status_code == 401
        assert (await client.get("/health", headers={"Authorization": ""})).status_code == 200
        for host in (
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:1",
            "192.168.0.1",
            "",
            "[::1",
            "a@b@c",
        ):
            answer = await client.get("/health", headers={"Host": host})
            assert answer.status_code == 421 and answer.json()["error"]["code"] == "wrong_host", host
        for host in ("localhost:9", "127.0.0.1", "[::1]:80"):
            assert (await client.get("/health", headers={"Host": host})).status_code == 200
        data = json.dumps(body).encode()
        for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
            answer = await client.post(COMPLETIONS, content=data, headers={"Content-Type": kind})
            assert answer.status_code == 415
        long = {**body, "user": "a" * 3000}
        answer = await client.post(COMPLETIONS, json=long)
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "too_long"
        packed = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        assert (await client.post(COMPLETIONS, content=data, headers=packed)).status_code == 415

    run(work, body_bytes=2000)


def test_more_than_the_queue_holds_is_turned_away_and_nobody_else() -> None:
    async def work(client: httpx2.AsyncClient, answer_queue: AnswerQueue) -> list[httpx2.Response]:
        body, step = {"prompt": IDS, "max_tokens": 60, "seed": 0}, answer_queue.thread.decoder.step  # type: ignore[union-attr]

        def slower() -> Any:
            time.sleep(0.005)
            return step()

        answer_queue.thread.decoder.step = slower  # type: ignore[method-assign, union-attr]
        first = [asyncio.ensure_future(client.post(COMPLETIONS, json={**body, "seed": seed})) for seed in range(5)]
        while answer_queue.thread.waiting < 4 or not answer_queue.thread.running:
            await asyncio.sleep(0.001)
        late = await client.post(COMPLETIONS, json=body)
        assert late.status_code == 429 and late.json()["error"]["code"] == "queue_full"
        assert 1 <= int(late.headers["retry-after"]) <= 60
        streamed = await client.post(COMPLETIONS, json={**body, "stream": True})
        assert streamed.status_code == 429
        many = await client.post(COMPLETIONS, json={**body, "n": 6})
        assert many.status_code == 400 and "n is 6, expected from 1 to 5" in many.json()["error"]["message"]
        listed = await client.post(COMPLETIONS, json={**body, "prompt": [IDS] * 6})
        assert listed.status_code == 400 and "a list of 6, at most 5" in listed.json()["error"]["message"]
        return await asyncio.gather(*first)

    answers = run(work, served=policy(ends=False), slots=1, queue=4)
    for seed, answer in enumerate(answers):
        expected = in_process(IDS, seed, 60, served=policy(ends=False))
        assert answer.json()["choices"][0]["text"] == expected["response"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_places(stream: bool) -> None:
    """The application itself, driven as a server drives it: the client's end comes while the answers are made."""
    body = json.dumps({"prompt": IDS, "max_tokens": 10_000, "n": 6, "stream": stream}).encode()
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "path": COMPLETIONS, "raw_path": COMPLETIONS.encode(), "query_string": b"", "root_path": "", "scheme": "http",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"),
                    (b"authorization", f"Bearer {TOKEN}".encode())],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
    }  # fmt: skip

    async def work(client: httpx2.AsyncClient, answer_queue: AnswerQueue) -> None:
        app = client._transport.app  # type: ignore[attr-defined]
        sent, left = False, asyncio.Event()

        async def receive() -> dict[str, Any]:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        task = asyncio.ensure_future(app(scope, receive, send))
        while answer_queue.thread.running < 4:
            await asyncio.sleep(0.001)
        left.set()
        await task
        until = time.monotonic() + 10
        while answer_queue.thread.running + answer_queue.thread.waiting and time.monotonic() < until:
            await asyncio.sleep(0.001)
        assert (answer_queue.thread.running, answer_queue.thread.waiting) == (0, 0)
        assert answer_queue.metrics.answers == {"cancelled": 6}
        fine = await client.post(COMPLETIONS, json={"prompt": IDS, "max_tokens": 3, "seed": 1})
        assert fine.status_code == 200

    slow = policy(ends=False)
    run(work, served=slow, slots=4, queue=64)


def test_many_clients_each_get_their_own_answer() -> None:
    """32 clients, 4 requests each, whole and in pieces at once: none is lost, none is another's."""
    asked = {1000 * number + turn: [5 + number, 40 + turn, 77] for number in range(32) for turn in range(4)}
    ids = pa.array(list(asked.values()), pa.list_(pa.int32()))
    seeds = np.array([*asked], np.uint64)
    drawn = policy().generator.generate(pa.table({"prompt_ids": ids}), Sampling(max_new_tokens=20), seeds)  # type: ignore[union-attr]
    expected = dict(zip(asked, drawn["response_ids"].to_pylist(), strict=True))

    async def client_of(number: int, client: httpx2.AsyncClient) -> None:
        for turn in range(4):
            seed = 1000 * number + turn
            body = {"prompt": asked[seed], "max_tokens": 20, "seed": seed, "return_token_ids": True}
            if (number + turn) % 4 == 0:
                async with client.stream("POST", COMPLETIONS, json={**body, "stream": True}) as response:
                    pieces = [json.loads(line[6:]) async for line in response.aiter_lines() if line[6:7] == "{"]
                made = [one for piece in pieces for one in piece["choices"][0]["token_ids"]]
            else:
                made = (await client.post(COMPLETIONS, json=body)).json()["choices"][0]["token_ids"]
            assert made == expected[seed]

    async def work(client: httpx2.AsyncClient, answer_queue: AnswerQueue) -> None:
        await asyncio.gather(*(client_of(number, client) for number in range(32)))
        assert sum(answer_queue.metrics.answers.values()) == 128 and {*answer_queue.metrics.answers} <= {
            "stop",
            "length",
        }

    run(work, slots=12)


def test_a_server_that_is_ending_says_so() -> None:
    async def work() -> None:
        async with application(policy(ends=False), reward(), slots=2) as (client, answer_queue):
            body = {"prompt": IDS, "max_tokens": 10_000, "n": 3}
            under_way = asyncio.ensure_future(client.post(COMPLETIONS, json=body))
            streamed = asyncio.ensure_future(client.post(COMPLETIONS, json={**body, "stream": True}))
            while answer_queue.thread.running < 2:
                await asyncio.sleep(0.001)
            ending = asyncio.ensure_future(answer_queue.end(0.05))
            await asyncio.sleep(0.01)
            late = await client.post(COMPLETIONS, json=body)
            assert late.status_code == 503 and late.json()["error"]["code"] == "ending"
            await ending
            answer = await under_way
            assert answer.status_code == 503 and "ending" in answer.json()["error"]["message"]
            assert '"code":"ending"' in (await streamed).text and (await streamed).text.endswith("data: [DONE]\n\n")
            assert (await client.post("/score", json={"messages": HELLO})).status_code == 503

    asyncio.run(work())


def _at_random(draw: random.Random) -> tuple[str, dict[str, Any]]:
    """A request that is right, with some fields replaced by what does not belong there."""
    strange = [None, True, -1, 0, 1, 2.5, 1e300, 1 << 70, "", "a", "\ud800", "\x1b[2J", [], [[]], [None], {}, {"a": 1}]
    path, body = draw.choice(
        [
            (
                COMPLETIONS,
                {"prompt": IDS, "max_tokens": 2, "n": 1, "seed": 1, "logprobs": 1, "stop": ["x"], "echo": False},
            ),
            (CHAT, {"messages": HELLO, "max_tokens": 2, "logprobs": True, "top_logprobs": 1, "stream": False}),
            ("/inference/v1/generate", {"token_ids": IDS, "sampling_params": {"max_tokens": 2}}),
            ("/score", {"messages": HELLO}),
            ("/classify", {"input_ids": [IDS]}),
        ]
    )
    for name in draw.sample([*body, "top_p", "echo", "tools", "stream", "response_format"], draw.randint(1, 2)):
        body[name] = draw.choice(strange)
    if draw.random() < 0.3 and "messages" in body:
        body["messages"] = [{**HELLO[0], draw.choice(["role", "content", "tool_calls", "name"]): draw.choice(strange)}]
    return path, body


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_requests_at_random_meet_no_fault_of_ours(count: int) -> None:
    draw = random.Random(count)

    async def work(client: httpx2.AsyncClient, answer_queue: AnswerQueue) -> Counter[int]:
        statuses: Counter[int] = Counter()
        for _ in range(count):
            path, body = _at_random(draw)
            typed = {"Content-Type": "application/json"}
            answer = await client.post(path, content=json.dumps(body).encode(), headers=typed)
            assert answer.status_code < 500, (path, body, answer.text)
            if answer.status_code != 200:
                assert answer.json()["error"]["message"]
            statuses[answer.status_code] += 1
        return statuses

    statuses = run(work, judged=reward())
    assert statuses[200] > count / 30 and statuses[400] > count / 3, statuses
