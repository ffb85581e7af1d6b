"""Answers as JSON of the OpenAI dialect, with token ids as vLLM gives them.

A token's text is that of the token alone: of one that is part of a letter it is a replacement character, and ids say
which token it is (`return_tokens_as_token_ids` names tokens by them).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines.serve.asked import Completion
from pipelines.serve.models import Served

if TYPE_CHECKING:
    from trainers.engine.inference.continuous import Answer

Ints = npt.NDArray[np.int64]
_SHORT = 16
Listed = Sequence[tuple[int, float]]
"""Likeliest ids at a token and their log-probabilities, likeliest first."""


@dataclass(frozen=True)
class PromptScores:
    """What the model thinks of a prompt's tokens: log-probabilities, of which the first is none, and likeliest ids."""

    logprobs: Sequence[float] = ()
    likeliest: Sequence[Listed] = ()


@dataclass(frozen=True)
class Replies:
    """Replies to one request of `served`."""

    served: Served
    asked: Completion
    prompts: Sequence[Ints]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def is_chat(self) -> bool:
        """Whether it answers a conversation."""
        return bool(self.asked.messages)

    def whole(self, answers: Sequence[Answer], scores: Sequence[PromptScores]) -> dict[str, Any]:
        """The reply with all choices: `n` for each prompt, prompt by prompt."""
        choices = []
        for at in range(len(self.prompts) * self.asked.draw.n):
            prompt = at // self.asked.draw.n
            answer = answers[at] if answers else None
            score = scores[prompt] if scores else PromptScores()
            choices.append(self._choice(at, self.prompts[prompt], answer, score))
        made = {**self._head("chat.completion" if self.is_chat else "text_completion", answers), "choices": choices}
        if self.is_chat and self.asked.token_ids:
            made["prompt_token_ids"] = [*map(int, self.prompts[0])]
        return {**made, "usage": self.usage(answers)}

    def generated(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The reply of `/inference/v1/generate`: ids and their log-probabilities, no text."""
        choices: list[dict[str, Any]] = []
        for at, answer in enumerate(answers):
            pairs = zip(answer.ids, answer.logprobs, strict=True)
            pairs_listed = [{"token_id": number, "logprob": value} for number, value in pairs]
            listed = None if self.asked.draw.top is None else {"content": pairs_listed}
            choices.append({"index": at, "token_ids": answer.ids, "finish_reason": answer.finish, "logprobs": listed})
        head = {"request_id": self.id, "model": self.served.name, **self._weights(answers)}
        return {**head, "choices": choices, "usage": self.usage(answers)}

    def piece(self, at: int, text: str, answer: Answer, since: int, until: int, finish: str) -> dict[str, Any]:
        """A chunk of choice `at`: new text, the tokens from `since` to `until`, and how it ended where it has."""
        choice: dict[str, Any] = {"index": at, "finish_reason": finish or None}
        if self.is_chat:
            choice["delta"] = {**({"role": "assistant"} if since == 0 else {}), "content": text}
        else:
            choice["text"] = text
        choice["logprobs"] = self._logprobs(answer, since, until)
        if self.asked.token_ids:
            choice["token_ids"] = answer.ids[since:until]
            if since == 0:
                choice["prompt_token_ids"] = [*map(int, self.prompts[at // self.asked.draw.n])]
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return {**self._head(kind, [answer]), "choices": [choice]}

    def last(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The chunk behind all others, which says how many tokens there were."""
        kind = "chat.completion.chunk" if self.is_chat else "text_completion"
        return {**self._head(kind, answers), "choices": [], "usage": self.usage(answers)}

    def usage(self, answers: Sequence[Answer]) -> dict[str, int]:
        """How many tokens were read and drawn; a prompt counts once."""
        read, drawn = sum(map(len, self.prompts)), sum(len(answer.ids) for answer in answers)
        return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}

    def _weights(self, answers: Sequence[Answer]) -> dict[str, str]:
        """Which weights answered, by the beginning of their digest, where that is known."""
        weights = answers[0].weights if answers else self.served.weights_digest
        return {"system_fingerprint": weights[:_SHORT]} if weights else {}

    def _head(self, kind: str, answers: Sequence[Answer]) -> dict[str, Any]:
        prefix = "chatcmpl" if self.is_chat else "cmpl"
        head = {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.served.name}
        head |= self._weights(answers)
        return {**head, "ignored": [*self.asked.ignored]} if self.asked.ignored else head

    def _choice(self, at: int, prompt: Ints, answer: Answer | None, score: PromptScores) -> dict[str, Any]:
        text = answer.text if answer else ""
        choice: dict[str, Any] = {"index": at, "finish_reason": answer.finish if answer else "length"}
        if self.is_chat:
            choice |= {"message": {"role": "assistant", "content": text}}
        else:
            choice["text"] = self._prompt_text(prompt) + text if self.asked.echo else text
        choice["logprobs"] = self._logprobs(answer, 0, len(answer.ids) if answer else 0, prompt, score)
        if self.asked.token_ids:
            choice["token_ids"] = answer.ids if answer else []
            if not self.is_chat:
                choice["prompt_token_ids"] = [*map(int, prompt)]
        if self.asked.prompt_top is not None:
            choice["prompt_logprobs"] = [None, *self._ranked(prompt, score)]
        return choice

    def _prompt_text(self, prompt: Ints) -> str:
        [text] = self.served.texts.tokenizer.decode([prompt.tolist()], control=True)
        return text

    def _ranked(self, prompt: Ints, score: PromptScores) -> list[dict[str, Any]]:
        """At every token of the prompt but the first: the likeliest ids, and the token itself."""
        made = []
        for number, own, listed in zip(prompt[1:], score.logprobs[1:], score.likeliest[1:], strict=True):
            ranked: dict[int, dict[str, float | None]]
            best = listed[: self.asked.prompt_top]
            ranked = {one: {"logprob": value, "rank": rank} for rank, (one, value) in enumerate(best, 1)}
            ranked.setdefault(int(number), {"logprob": own, "rank": None})
            texts = {one: self.served.texts.token(one) for one in ranked}
            made.append({str(one): {**entry, "decoded_token": texts[one]} for one, entry in ranked.items()})
        return made

    def _logprobs(
        self, answer: Answer | None, since: int, until: int,
        prompt: Ints | Sequence[int] = (), score: PromptScores | None = None,
    ) -> dict[str, Any] | None:  # fmt: skip
        if self.asked.draw.top is None:
            return None
        ids = answer.ids[since:until] if answer else []
        values: list[float | None] = [*answer.logprobs[since:until]] if answer else []
        listed: list[Listed] = [*answer.likeliest[since:until]] if answer and self.asked.draw.top else [()] * len(ids)
        if self.asked.echo and score is not None:
            ids, values = [*map(int, prompt), *ids], [None, *score.logprobs[1:], *values]
            listed = [*(one[: self.asked.draw.top] for one in score.likeliest), *listed]
        names = [self._name(number) for number in ids]
        if self.is_chat:
            entries = zip(names, values, listed, strict=True)
            return {"content": [self._entry(name, value, top) for name, value, top in entries]}
        top = [self._by_name(each) or None for each in listed]
        places = [0, *accumulate(map(len, names))][: len(names)]
        return {"tokens": names, "token_logprobs": values, "top_logprobs": top, "text_offset": places}

    def _entry(self, name: str, value: float | None, listed: Listed) -> dict[str, Any]:
        best = [{"token": text, "logprob": lp, "bytes": [*text.encode()]}
                for text, lp in ((self._name(one), lp) for one, lp in listed)]  # fmt: skip
        return {"token": name, "logprob": value, "bytes": [*name.encode()], "top_logprobs": best}

    def _by_name(self, listed: Listed) -> dict[str, float]:
        """Log-probabilities by token; behind a likelier one of the same text (parts of letters) a token has its id."""
        made: dict[str, float] = {}
        for number, value in listed:
            name = self._name(number)
            made[f"token_id:{number}" if name in made else name] = value
        return made

    def _name(self, number: int) -> str:
        return f"token_id:{number}" if self.asked.as_ids else self.served.texts.token(number)


def scored(served: Served, rows: Sequence[Sequence[float]], form: str, tokens: int) -> dict[str, Any]:
    """A reward model's numbers: by name (`score`), as `/classify` and `/pooling` of vLLM have them."""
    data: list[Mapping[str, Any]] = []
    for at, row in enumerate(rows):
        values = [*map(float, row)]
        named = dict(zip(served.outputs, values, strict=True))
        if form == "score":
            data.append({"index": at, "object": "score", "score": values[0], "scores": named})
        elif form == "classify":
            data.append({"index": at, "label": served.outputs[0], "probs": values, "num_classes": len(values)})
        else:
            data.append({"index": at, "object": "pooling", "data": values})
    usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
    head = {"id": f"{form}-{uuid.uuid4().hex}", "object": "list", "created": int(time.time()), "model": served.name}
    return {**head, "data": data, "usage": usage}


def reward_message(served: Served, row: Sequence[float], tokens: int) -> dict[str, Any]:
    """The same as an answer in chat, as NVIDIA's reward models give it: `name:value`, with commas between them."""
    text = ",".join(f"{name}:{float(value)!r}" for name, value in zip(served.outputs, row, strict=True))
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, "logprobs": None}
    usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": "chat.completion", "created": int(time.time())}
    return {**head, "model": served.name, "choices": [choice], "usage": usage}
