"""Chat completions: a conversation goes out as it is, the server templates it, text comes back.

`reasoning_content` (or `reasoning`) is kept beside the answer; a `refusal` is an answer whose end says so. No token and
no log-probability is asked for: those of a text that somebody else templated belong to a prompt that nobody saw.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datakit.clients.http.choices import choices_of, cut_at, finish_of, text_of
from datakit.clients.http.exchange import Refused, Reply, Request
from datakit.clients.sampling import Sampling

PATH = "chat/completions"


def request(
    model: str,
    messages: Sequence[Mapping[str, Any]],
    sampling: Sampling,
    seed: int,
    count: int = 1,
    *,
    tools: str | None = None,
    answer_schema: Mapping[str, Any] | None = None,
) -> Request:
    """The request for `count` answers to `messages`; `tools` and `answer_schema` (JSON schema) where there are some."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [_message(turn) for turn in messages],
        **drawn(sampling, seed, count),
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if tools:
        body["tools"] = json.loads(tools)
    if answer_schema is not None:
        described = {"name": "answer", "strict": True, "schema": dict(answer_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": described}
    return Request(PATH, body, tokens=count * sampling.max_new_tokens)


def drawn(sampling: Sampling, seed: int, count: int) -> dict[str, Any]:
    """How `count` answers are drawn, as every endpoint for text calls it; answer i has the seed `seed` + i."""
    body: dict[str, Any] = {"max_tokens": sampling.max_new_tokens, "seed": seed}
    if count > 1:
        body["n"] = count
    if sampling.greedy:
        return {**body, "temperature": 0}
    cut = {"top_k": sampling.top_k} if sampling.top_k else {}
    return {**body, "temperature": sampling.temperature, "top_p": sampling.top_p, **cut}


def _message(turn: Mapping[str, Any]) -> dict[str, Any]:
    message = {"role": turn["role"], "content": turn["content"]}
    if turn.get("tool_calls"):
        message["tool_calls"] = json.loads(turn["tool_calls"])
    if turn.get("tool_call_id"):
        message["tool_call_id"] = turn["tool_call_id"]
    if turn.get("reasoning"):
        message["reasoning_content"] = turn["reasoning"]
    return message


def read(reply: Reply, count: int, stops: Sequence[str] = ()) -> dict[str, Any]:
    """The answers of a reply, as `choices_of` has them."""
    return choices_of(reply.json(), count, lambda choice: _answer(choice, stops))


def _answer(choice: Mapping[str, Any], stops: Sequence[str]) -> dict[str, Any]:
    message = choice.get("message")
    if not isinstance(message, dict):
        raise Refused("a choice of the reply has no message")
    text, refusal, finish = text_of(message, "content"), text_of(message, "refusal"), finish_of(choice)
    reasoning = text_of(message, "reasoning_content") or text_of(message, "reasoning")
    calls = message.get("tool_calls")
    if text is None and refusal is None and not calls and reasoning is None:
        raise Refused("a choice of the reply has no content")
    made: dict[str, Any] = {"text": cut_at(text or "", stops), "finish": finish}
    if refusal is not None and not text:
        made |= {"text": refusal, "finish": "refusal"}
    if reasoning:
        made["reasoning"] = reasoning
    return made
