"""Reward models that a server answers for: a conversation with its answer goes out, named numbers come back.

classify   vLLM's `/classify`: `probs` are the numbers of the head, without the activation that is its default
pooling    vLLM's `/pooling`: the pooled numbers of a reward model; the last of a sequence is its reward
reward     chat completions of NVIDIA's reward models: `reward:-3.5`, or numbers by attribute, as text or as the
log-probabilities of the first token (Nemotron-4-340B-Reward)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pyarrow as pa

from datakit.clients.http import chat
from datakit.clients.http.client import HttpClient
from datakit.clients.http.exchange import Refused, Reply, Request
from datakit.clients.http.usage import used
from datakit.clients.sampling import Sampling
from schemas import Schema
from schemas.errors import printable

RewardApi = Literal["classify", "pooling", "reward"]

_PAIR = re.compile(r"\s*([A-Za-z_][\w ]*?)\s*:\s*(-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?:,|;|$)")
_ONE_TOKEN = Sampling(max_new_tokens=1, greedy=True)


@dataclass(frozen=True)
class HttpScorer(HttpClient):
    """A `Scorer`: `names` are those of the numbers of `classify` and `pooling`, in the order of the head."""

    takes: Schema
    api: RewardApi = "classify"
    names: tuple[str, ...] = field(default=("reward",))

    def score(self, rows: pa.Table) -> Mapping[str, pa.Array]:
        """The numbers of every row under their names; null where the server refuses one."""
        turns = rows["messages"].to_pylist()
        answers = rows["response"].to_pylist() if "response" in self.takes.names else [None] * len(turns)
        requests = [self._request(turn, answer) for turn, answer in zip(turns, answers, strict=True)]
        made = [one.get("numbers", {}) for one in self.asking.all(requests, self._read)]
        known = dict.fromkeys(name for one in made for name in one) or dict.fromkeys(self.names)
        return {name: pa.array([one.get(name) for one in made], pa.float64()) for name in known}

    def _request(self, turns: Sequence[Mapping[str, Any]], answer: str | None) -> Request:
        whole = [*turns, *([{"role": "assistant", "content": answer}] if answer is not None else [])]
        asked = chat.request(self.asking.address.model, whole, _ONE_TOKEN, 0)
        if self.api == "reward":
            return replace(asked, body={**asked.body, "logprobs": True})
        body = {"model": asked.body["model"], "messages": asked.body["messages"], "use_activation": False}
        return Request(f"/{self.api}", body)

    def _read(self, reply: Reply) -> dict[str, Any]:
        whole = reply.json()
        if not isinstance(whole, dict):
            raise Refused(f"the reply has no numbers: {printable(whole, 80)}")
        numbers = _of_chat(whole) if self.api == "reward" else self._of_head(whole)
        return {"numbers": numbers, **used(whole)}

    def _of_head(self, whole: Mapping[str, Any]) -> dict[str, float]:
        listed = whole.get("data")
        if not isinstance(listed, list) or len(listed) != 1 or not isinstance(listed[0], dict):
            raise Refused(f"the reply is not about one row: {printable(whole, 80)}")
        values = listed[0].get("probs" if self.api == "classify" else "data")
        while isinstance(values, list) and values and isinstance(values[0], list):
            values = values[-1]  # a number for each token: the last one is the row's
        values = values if isinstance(values, list) else [values]
        if len(values) != len(self.names):
            raise Refused(f"{len(values)} numbers, named are {len(self.names)}: {', '.join(self.names)}")
        return {name: _number(value) for name, value in zip(self.names, values, strict=True)}


def _of_chat(whole: Mapping[str, Any]) -> dict[str, float]:
    choices = whole.get("choices")
    choice = choices[0] if isinstance(choices, list) and len(choices) == 1 else None
    message = choice.get("message") if isinstance(choice, dict) else None
    message = message[0] if isinstance(message, list) and len(message) == 1 else message
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str) and (pairs := _PAIR.findall(content)) and not _PAIR.sub("", content).strip():
        return {name.strip(): _number(float(value)) for name, value in pairs}
    listed = choice.get("logprobs") if isinstance(choice, dict) else None
    entries = listed.get("content") if isinstance(listed, dict) else None
    if isinstance(entries, list) and entries and all(isinstance(one, dict) for one in entries):
        return {str(one.get("token")): _number(one.get("logprob")) for one in entries}
    raise Refused(f"the reply is no reward: {printable(content, 80)}")


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise Refused(f"the reward is no finite number: {printable(value, 80)}")
    return float(value)
