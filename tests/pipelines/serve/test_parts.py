"""Fields, requests, streamed texts, host names: each part by itself."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import numpy as np
import pytest
from tokenizers import Tokenizer as Library
from tokenizers import decoders, models

from pipelines.serve import asked, replies
from pipelines.serve.answer_queue import AnswerQueue
from pipelines.serve.answers import Policy
from pipelines.serve.fields import Fields, RequestError, turns
from pipelines.serve.guards import Guards, as_json
from pipelines.serve.metrics import Metrics
from pipelines.serve.streams import StreamedText
from tests.pipelines.serve.served import in_process, policy, reward
from trainers.engine.inference.answer_texts import StopTexts
from trainers.engine.inference.continuous import Answer
from trainers.engine.inference.token_sampling import Distribution


def test_a_field_that_nobody_read_and_one_that_would_change_answers_are_refused() -> None:
    fields = Fields({"n": 2, "stop": "a", "penalty": 0, "other": None})
    assert fields.integer("n", 1, 1, 3) == 2 and fields.texts("stop", 2) == ("a",)
    fields.neutral(penalty=(0,))
    fields.end()
    with pytest.raises(RequestError, match="penalty is 0, which this server does not do"):
        fields.neutral(penalty=(False, 1))
    with pytest.raises(RequestError, match="nn is no field of this request") as fault:
        Fields({"nn": 1}, "", {"n"}).end()
    assert fault.value.body["error"]["code"] == "unknown_field" and fault.value.status == 400
    with pytest.raises(RequestError, match=r"messages\[1\]\.role is none of"):
        turns(Fields({"messages": [{"role": "user", "content": "a"}, {"role": "x", "content": "a"}]}))


def test_a_request_has_the_defaults_of_the_dialect_and_a_seed_of_its_own() -> None:
    plain = asked.completion({"prompt": "a"}, 99, 10)
    assert (plain.draw.n, plain.draw.most, plain.draw.temperature, plain.draw.top_p, plain.draw.top_k) == (
        1,
        16,
        1,
        1,
        0,
    )
    assert plain.draw.seed != asked.completion({"prompt": "a"}, 99, 10).draw.seed
    assert asked.chat({"messages": [{"role": "user", "content": "a"}]}, 99, 10).draw.most is None
    last = asked.completion({"prompt": [1], "seed": -1, "n": 2, "top_k": -1}, 99, 10)
    assert last.draw.seed == (1 << 64) - 1 and last.draw.top_k == 0

    async def seeds() -> list[int]:
        wrapped = Policy(AnswerQueue(9, Metrics()), policy())
        return [one.seed for one in await wrapped.answers(last, await wrapped.prompts(last))]

    assert asyncio.run(seeds()) == [(1 << 64) - 1, 0]
    judge = asked.chat(
        {"messages": [{"role": "user", "content": "a"}], "response_format": {"type": "json_schema"}}, 9, 1
    )
    assert judge.ignored == ("response_format",)


def test_a_growing_text_keeps_back_what_may_still_change() -> None:
    generator = policy().generator
    assert generator is not None
    ids = [*policy().texts.tokenizer.encode(["aé<st>op<sto"])[0]]
    prompt = policy().texts.text("x")
    answer = Answer(prompt, 0, 99, Distribution(), generator.stop_texts(("<stop>", "zz")), True)
    streamed = StreamedText(answer)
    answer.ids = ids
    pieces = [streamed.more(count, "") for count in range(1, len(ids) + 1)]
    assert pieces == ["a", "", "é", "", "", "", "<st>", "o", "p", "", "", "", ""]
    assert streamed.more(len(ids), "length") == "<sto"
    looks = StreamedText(answer)
    answer.ids = ids[:1] * 3000
    looked = [count for count in range(1, 3001) if looks.more(count, "") is not None]
    assert len(looked) < 1000 and looked[:200] == [*range(1, 201)]
    whole = in_process(prompt.tolist(), 5, 60)
    assert StreamedText(answer).sent == "" and whole["response"]


def test_pieces_are_the_whole_text_where_bytes_fit_no_letter() -> None:
    """Of SentencePiece's bytes a run that holds one beyond all letters has none of them, those before it neither."""
    names = ["a", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = Library(models.BPE({name: number for number, name in enumerate(names)}, [], byte_fallback=True))
    words.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    words.add_special_tokens(["<s>"])
    stops = StopTexts(words, (), np.zeros(len(names), bool))
    ids = [0, *(2 + byte for byte in "é1".encode()), 1, 2 + 0xFF, 0, *(2 + byte for byte in "é".encode()), 0]
    answer = Answer(np.array([0]), 0, 99, Distribution(), stops, ids=ids)
    streamed = StreamedText(answer)
    pieces = [streamed.more(count, "") for count in range(1, len(ids))] + [streamed.more(len(ids), "length")]
    assert pieces == ["a", "", "", "", "", "", "\ufffd\ufffd\ufffd\ufffda", "", "", "éa"]
    assert "".join(map(str, pieces)) == answer.text


def test_a_server_that_was_opened_goes_by_addresses_and_its_names_alone() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await as_json({"fine": True})(scope, receive, send)

    async def statuses() -> dict[str, int]:
        guards = Guards(app, names={"box.example"}, any_address=True, token="")
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(guards), base_url="http://x") as client:
            hosts = (
                "box.example",
                "BOX.example:80",
                "192.0.2.7:8000",
                "[2001:db8::1]",
                "evil.example",
                "192.0.2.7.evil.example",
            )
            return {host: (await client.get("/a", headers={"Host": host})).status_code for host in hosts}

    assert [*asyncio.run(statuses()).values()] == [200, 200, 200, 200, 421, 421]


def test_numbers_of_a_reward_model_are_spelt_whole() -> None:
    made = replies.reward_message(reward(), [0.1, -2e-9], 3)
    assert made["choices"][0]["message"]["content"] == "help:0.1,harm:-2e-09" and made["usage"]["total_tokens"] == 3
    [row] = replies.scored(reward(), [[0.5, 2]], "classify", 3)["data"]
    assert row == {"index": 0, "label": "help", "probs": [0.5, 2.0], "num_classes": 2}
