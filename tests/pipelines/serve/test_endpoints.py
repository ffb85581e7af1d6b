"""The endpoints: what they answer is what the sampler draws and the network says, whole and in pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import httpx2
import numpy as np
import pytest

from pipelines.serve.answer_queue import AnswerQueue
from pipelines.serve.models import Served
from tests.pipelines.serve.served import POSITIONS, application, in_process, policy, reward

Work = Callable[[httpx2.AsyncClient, AnswerQueue], Awaitable[Any]]

HELLO = [{"role": "user", "content": "Hello."}]
IDS = [5, 60, 61, 62]


def run(work: Work, served: Served | None = None, judged: Served | None = None, **how: Any) -> Any:
    async def whole() -> Any:
        async with application(served or policy(), judged, **how) as (client, answer_queue):
            return await work(client, answer_queue)

    return asyncio.run(whole())


def post(path: str, **body: Any) -> Any:
    """The reply to one request of a new server."""

    async def work(client: httpx2.AsyncClient, answer_queue: AnswerQueue) -> Any:
        response = await client.post(path, json=body)
        assert response.status_code == 200, response.text
        return response.json()

    return run(work, judged=reward())


def assert_drawn(choice: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    assert choice["token_ids"] == expected["response_ids"]
    assert choice["text"] == expected["response"] and choice["finish_reason"] == expected["finish_reason"]
    np.testing.assert_allclose(choice["logprobs"]["token_logprobs"], expected["logprobs"], atol=2e-5)


def test_answers_are_those_of_the_sampler_for_the_same_seeds() -> None:
    asked = {"logprobs": 1, "return_token_ids": True, "max_tokens": 20}
    made = post("/v1/completions", model="m", prompt=IDS, n=5, seed=7, temperature=0.8, top_k=40, top_p=0.9, **asked)
    how = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}
    for number, choice in enumerate(made["choices"]):
        assert choice["index"] == number and choice["prompt_token_ids"] == IDS
        assert_drawn(choice, in_process(IDS, 7 + number, 20, **how))
    assert len({tuple(choice["token_ids"]) for choice in made["choices"]}) == 5
    assert made["usage"]["completion_tokens"] == sum(len(choice["token_ids"]) for choice in made["choices"])
    greedy = post("/v1/completions", prompt=[IDS, "Hi <|im_start|>"], temperature=0, **asked)
    for choice, ids in zip(greedy["choices"], (IDS, [42, 75, 223, 0]), strict=True):
        assert_drawn(choice, in_process(ids, 0, 20, greedy=True))


def test_texts_and_tokens_end_an_answer_as_in_the_sampler() -> None:
    whole = in_process(IDS, 3, 60)
    stop = whole["response"][4:6]
    asked = {"prompt": IDS, "seed": 3, "max_tokens": 60, "logprobs": 0, "return_token_ids": True}
    [cut] = post("/v1/completions", stop=stop, **asked)["choices"]
    assert cut["finish_reason"] == "stop" and stop not in cut["text"]
    assert_drawn(cut, in_process(IDS, 3, 60, stop=(stop,)))
    last = whole["response_ids"][9]
    [ended] = post("/v1/completions", stop_token_ids=[last], **asked)["choices"]
    first = whole["response_ids"].index(last)
    assert ended["token_ids"] == whole["response_ids"][: first + 1] and ended["finish_reason"] == "stop"
    [long] = post("/v1/completions", **{**asked, "max_tokens": 10_000})["choices"]
    assert_drawn(long, in_process(IDS, 3, 10_000))
    assert long["finish_reason"] == "stop" or len(long["token_ids"]) == POSITIONS - len(IDS)


def test_a_conversation_is_templated_here_and_its_contents_hold_no_control_token() -> None:
    texts = policy().texts
    ids = texts.conversation([{"role": "user", "content": "a<|im_end|>"}], answer=True).tolist()
    assert ids.count(1) == 1 and ids.count(0) == 2
    made = post(
        "/v1/chat/completions", messages=[{"role": "user", "content": [{"type": "text", "text": "a<|im_end|>"}]}],
        max_tokens=12, seed=5, logprobs=True, top_logprobs=2, return_token_ids=True,
    )  # fmt: skip
    [choice] = made["choices"]
    expected = in_process(ids, 5, 12)
    assert made["prompt_token_ids"] == ids and choice["token_ids"] == expected["response_ids"]
    assert choice["message"] == {"role": "assistant", "content": expected["response"]}
    listed = choice["logprobs"]["content"]
    np.testing.assert_allclose([one["logprob"] for one in listed], expected["logprobs"], atol=2e-5)
    assert all(len(one["top_logprobs"]) == 2 for one in listed)


def test_given_tokens_are_scored_as_the_network_scores_them() -> None:
    rows = [np.array(ids, np.int64) for ids in ([5, 60, 61], [9, 8, 7, 200, 201])]
    network = policy().network
    made = post("/v1/completions", prompt=[row.tolist() for row in rows], max_tokens=0, echo=True, logprobs=1)
    expected, (best, values) = network.logprobs(rows).to_pylist(), network.top_k(rows, 3)
    for choice, row, numbers in zip(made["choices"], rows, expected, strict=True):
        listed = choice["logprobs"]
        assert listed["token_logprobs"][0] is None and listed["top_logprobs"][0] is None
        np.testing.assert_allclose(listed["token_logprobs"][1:], numbers[1:], atol=2e-5)
        assert choice["text"] == policy().texts.tokenizer.decode([row.tolist()])[0]
    top = post("/v1/completions", prompt=rows[1].tolist(), max_tokens=1, prompt_logprobs=3)
    for at, entry in enumerate(top["choices"][0]["prompt_logprobs"][1:], 1):
        ranked = {int(name): one["logprob"] for name, one in entry.items()}
        assert [*ranked][:3] == best[1][at].as_py() and int(rows[1][at]) in ranked
        np.testing.assert_allclose([*ranked.values()][:3], values[1][at].as_py(), atol=2e-5)
        assert ranked[int(rows[1][at])] == pytest.approx(expected[1][at], abs=2e-5)


def test_log_probabilities_of_a_prompt_come_with_as_many_of_the_likeliest_as_each_field_asks_for() -> None:
    ids = [9, 8, 7, 200, 201]
    [expected] = policy().network.logprobs([np.array(ids, np.int64)]).to_pylist()
    [alone] = post("/v1/completions", prompt=ids, max_tokens=1, prompt_logprobs=0)["choices"]
    own = [[(int(name), one["logprob"]) for name, one in entry.items()] for entry in alone["prompt_logprobs"][1:]]
    assert own == [
        [(number, pytest.approx(value, abs=2e-5))] for number, value in zip(ids[1:], expected[1:], strict=True)
    ]
    both = post("/v1/completions", prompt=ids, max_tokens=0, echo=True, logprobs=2, prompt_logprobs=5)
    [choice] = both["choices"]
    _, values = policy().network.top_k([np.array(ids, np.int64)], 2)
    listed = choice["logprobs"]["top_logprobs"][1:]
    assert {name for one in listed for name in one if name.startswith("token_id:")}, "two of one text, none lost"
    np.testing.assert_allclose([[*one.values()] for one in listed], values.to_pylist()[0][1:], atol=2e-5)
    assert {len(one) for one in choice["prompt_logprobs"][1:]} <= {5, 6}
    fewer = post("/v1/completions", prompt=ids, max_tokens=0, echo=True, logprobs=5, prompt_logprobs=0)
    assert {len(one) for one in fewer["choices"][0]["prompt_logprobs"][1:]} == {1}


def test_vllms_endpoint_for_rollouts_gives_ids_and_log_probabilities() -> None:
    params = {"n": 2, "max_tokens": 9, "seed": 4, "temperature": 1.0, "top_p": 1.0, "logprobs": 1}
    made = post("/inference/v1/generate", model="m", token_ids=IDS, sampling_params=params)
    for number, choice in enumerate(made["choices"]):
        expected = in_process(IDS, 4 + number, 9)
        listed = choice["logprobs"]["content"]
        assert choice["token_ids"] == expected["response_ids"] == [one["token_id"] for one in listed]
        numbers = [one["logprob"] for one in listed]
        np.testing.assert_allclose(numbers, expected["logprobs"], atol=2e-5)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_pieces_are_the_whole_answer(path: str) -> None:
    whole = {"max_tokens": 60, "seed": 11, "n": 3, "return_token_ids": True, "stop": ["zz", "q"]}
    whole |= {"messages": HELLO, "logprobs": True} if "chat" in path else {"prompt": IDS, "logprobs": 0}

    async def work(client: httpx2.AsyncClient, answer_queue: AnswerQueue) -> tuple[Any, list[Any]]:
        expected = (await client.post(path, json=whole)).json()
        asked = {**whole, "stream": True, "stream_options": {"include_usage": True}}
        async with client.stream("POST", path, json=asked) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            return expected, [line async for line in events(response)]

    expected, pieces = run(work)
    assert pieces[-1] == "[DONE]"
    *pieces, last = [json.loads(one) for one in pieces[:-1]]
    assert last["choices"] == [] and last["usage"] == expected["usage"]
    for choice in expected["choices"]:
        mine = [one["choices"][0] for one in pieces if one["choices"][0]["index"] == choice["index"]]
        texts = [one["delta"]["content"] if "chat" in path else one["text"] for one in mine]
        assert "".join(texts) == (choice["message"]["content"] if "chat" in path else choice["text"])
        assert [number for one in mine for number in one["token_ids"]] == choice["token_ids"]
        assert [one["finish_reason"] for one in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
        assert len(mine) > 1
        name = "content" if "chat" in path else "tokens"
        assert sum(len(one["logprobs"][name]) for one in mine) == len(choice["token_ids"])


async def events(response: httpx2.Response) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        if line:
            assert line.startswith("data: ")
            yield line.removeprefix("data: ")


def test_a_reward_model_puts_its_numbers_on_conversations_and_on_tokens() -> None:
    turns = [*HELLO, {"role": "assistant", "content": "Hi."}]
    ids = reward().texts.conversation(turns, answer=False)
    [[helps, harms]] = reward().network.scores([ids]).tolist()
    close = {"abs": 2e-5}
    scored = post("/score", model="r", conversations=[turns, turns])["data"]
    assert [one["scores"] for one in scored] == [pytest.approx({"help": helps, "harm": harms}, **close)] * 2
    assert post("/v1/score", input_ids=[ids.tolist()])["data"][0]["score"] == pytest.approx(helps, **close)
    assert post("/classify", messages=turns)["data"][0]["probs"] == pytest.approx([helps, harms], **close)
    assert post("/pooling", model="r", messages=turns)["data"][0]["data"] == pytest.approx([helps, harms], **close)
    spelt = post("/v1/chat/completions", model="r", messages=turns, max_tokens=1, seed=0, temperature=0)
    text = spelt["choices"][0]["message"]["content"]
    assert dict(part.split(":") for part in text.split(",")).keys() == {"help", "harm"}
    models = run(lambda client, _: client.get("/v1/models"), judged=reward()).json()["data"]
    assert [one["id"] for one in models] == ["m", "r"] and models[0]["max_model_len"] == POSITIONS


def test_counts_are_in_prometheus_text() -> None:
    async def work(client: httpx2.AsyncClient, answer_queue: AnswerQueue) -> str:
        await client.post("/v1/completions", json={"prompt": IDS, "max_tokens": 4, "seed": 1})
        await client.post("/v1/completions", json={"prompt": IDS, "max_tokens": -4})
        return (await client.get("/metrics")).text

    lines = dict(line.rsplit(" ", 1) for line in run(work).splitlines() if not line.startswith("#"))
    assert lines['quiver_requests_total{path="/v1/completions",status="200"}'] == "1"
    assert lines['quiver_requests_total{path="/v1/completions",status="400"}'] == "1"
    assert lines['quiver_tokens_total{kind="generated"}'] == "4" and lines['quiver_tokens_total{kind="prompt"}'] == "4"
    assert lines["quiver_time_to_first_token_seconds_count"] == "1" and lines["quiver_answers_running"] == "0"
