"""A policy that a server answers for: one request a prompt, whose answers have the seeds base, base + 1, ..."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.clients.http import chat, completions, token_ids
from datakit.clients.http.choices import cut_at
from datakit.clients.http.client import HttpClient
from datakit.clients.http.exchange import Reply, Request
from datakit.clients.http.usage import COUNTED, Meter
from datakit.clients.protocols import ANSWERS
from datakit.clients.sampling import Sampling
from datakit.clients.seeds import base_seed
from schemas.rows.samples import REASONING
from schemas.rows.usage import USAGE

if TYPE_CHECKING:
    from datakit.tokenizers.tokenizer import Tokenizer

Api = Literal["chat", "completions", "generate"]
"""Conversations; prompts as text or tokens; tokens alone, as vLLM's endpoint for rollouts takes them."""


@dataclass(frozen=True)
class HttpGenerator(HttpClient):
    """Asks the model at the address of `asking`; with a `tokenizer`, in tokens and with their log-probabilities.

    `separately`: for a server that gives one answer a request, whatever `n` says; `stream`: answers come in pieces.
    """

    api: Api = "chat"
    tokenizer: Tokenizer | None = None
    separately: bool = False
    meter: Meter = COUNTED
    stream: bool = False

    def generate(self, rows: pa.Table, sampling: Sampling, seeds: npt.NDArray[np.uint64]) -> pa.Table:
        """Answers (`ANSWERS`) to `rows`, all that each was asked for, or an `error` in the place of one; beside them
        what each request took (`USAGE`).
        """
        each, part = sampling.samples_per_prompt, 1 if self.separately else sampling.samples_per_prompt
        asked = [(row, first) for row in range(rows.num_rows) for first in range(0, each, part)]
        form = self._requests(rows, sampling)
        requests = [
            replace(form(row, base_seed(int(seeds[row])) + first, part), stream=self.stream) for row, first in asked
        ]
        replies = self.asking.all(requests, lambda reply: self._read(reply, part, sampling.stop))
        made = [
            {"prompt_row": row, "sample_index": first + number, **self._row(reply, number, sampling.stop), **took}
            for (row, first), reply in zip(asked, replies, strict=True)
            for took in (self.meter.row(reply, part),)
            for number in range(part)
        ]
        schema = ANSWERS.adding(*((REASONING,) if self.api == "chat" else ()), *USAGE)
        arrays = [pa.array([one.get(column.name) for one in made], column.type) for column in schema.columns]
        return pa.Table.from_arrays(arrays, schema=schema.arrow)

    def _requests(self, rows: pa.Table, sampling: Sampling) -> Callable[[int, int, int], Request]:
        """What makes the request for so many answers to a row, the first of which has that seed."""
        model = self.asking.address.model
        if self.api == "chat":
            turns = rows["messages"].to_pylist()
            tools = rows["tools"].to_pylist() if "tools" in rows.column_names else [None] * rows.num_rows
            return lambda row, seed, count: chat.request(model, turns[row], sampling, seed, count, tools=tools[row])
        prompts = rows["prompt" if self.tokenizer is None else "prompt_ids"].to_pylist()
        texts, ids = self._ends(sampling.stop)
        ending = replace(sampling, stop=texts)
        form = token_ids.request if self.api == "generate" else completions.request
        return lambda row, seed, count: form(model, prompts[row], ending, seed, count, stop_ids=ids)

    def _ends(self, stops: Sequence[str]) -> tuple[tuple[str, ...], tuple[int, ...]]:
        """What ends an answer, as texts and, of control tokens, which no text shows, as ids."""
        if self.tokenizer is None:
            return tuple(stops), ()
        control = {stop: self.tokenizer.id_of(stop) for stop in stops if stop in self.tokenizer.control}
        return tuple(stop for stop in stops if stop not in control), tuple(n for n in control.values() if n is not None)

    def _read(self, reply: Reply, count: int, stops: Sequence[str]) -> dict[str, Any]:
        if self.api == "chat":
            return chat.read(reply, count, stops)
        return completions.read(reply, count, stops) if self.api == "completions" else token_ids.read(reply, count)

    def _row(self, reply: Mapping[str, Any], number: int, stops: Sequence[str]) -> dict[str, Any]:
        if "refused" in reply:
            return _failed(reply["refused"])
        choice = reply["choices"].get(str(number), {"error": "missing in the reply"})
        if "error" in choice:
            return _failed(choice["error"])
        ids, text = choice.get("ids"), choice.get("text")
        if self.tokenizer is not None:
            if ids is None or "logprobs" not in choice:
                return _failed("the server gives no tokens, or no log-probabilities of them")
            if ids and max(ids) >= self.tokenizer.size:
                return _failed(f"the token id {max(ids)} is none of the tokenizer's, which has {self.tokenizer.size}")
            tokens = cut_at(self.tokenizer.decode([ids])[0], stops)
            text = tokens if text is None else _spelled(text, tokens, choice["finish"] == "length")
        known = {"response_ids": ids, "logprobs": choice.get("logprobs")} if self.tokenizer is not None else {}
        return {
            "response": text, "finish_reason": choice["finish"], "reasoning": choice.get("reasoning"), **known
        }  # fmt: skip


def _spelled(text: str, tokens: str, was_cut: bool) -> str:
    """A server's `text` of an answer whose tokens read `tokens`, but for a blank at its beginning, which decoders drop.

    vLLM leaves out half a letter at which an answer was cut, and puts the prompt in front of an answer that goes on
    behind half a letter. What is learnt are the tokens.
    """
    shown, whole = text.lstrip(), tokens.lstrip()
    if not whole.startswith(shown):
        return tokens
    return text + whole[len(shown) :] if was_cut else text


def _failed(words: str) -> dict[str, Any]:
    return {"finish_reason": "error", "error": words}
