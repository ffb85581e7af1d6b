"""Completions: a prompt goes out as text or as token ids, the answer comes back as text, with ids where it can.

`return_token_ids` and `stop_token_ids` are vLLM's; a server that knows neither leaves them aside, and gives no ids.
The same endpoint says of given tokens what the model thinks of each (`echo`, no new token), and with `prompt_logprobs`
which ids it thinks likeliest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datakit.clients.http.chat import drawn
from datakit.clients.http.choices import choices_of, cut_at, finish_of, ids_of, logprobs_of, text_of
from datakit.clients.http.exchange import Refused, Reply, Request
from datakit.clients.sampling import Sampling
from schemas.errors import printable

PATH = "completions"


def request(
    model: str,
    prompt: str | Sequence[int],
    sampling: Sampling,
    seed: int,
    count: int = 1,
    *,
    stop_ids: Sequence[int] = (),
) -> Request:
    """The request for `count` answers to `prompt`; the texts of `sampling.stop` and the tokens `stop_ids` end one."""
    body: dict[str, Any] = {"model": model, "prompt": prompt, **drawn(sampling, seed, count)}
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if stop_ids:
        body["stop_token_ids"] = list(stop_ids)
    if not isinstance(prompt, str):
        body |= {"logprobs": 1, "return_token_ids": True}
    known = 0 if isinstance(prompt, str) else len(prompt)
    return Request(PATH, body, tokens=count * (sampling.max_new_tokens + known))


def read(reply: Reply, count: int, stops: Sequence[str] = ()) -> dict[str, Any]:
    """The answers of a reply, as `choices_of` has them."""
    return choices_of(reply.json(), count, lambda choice: _answer(choice, stops))


def _answer(choice: Mapping[str, Any], stops: Sequence[str]) -> dict[str, Any]:
    text = text_of(choice, "text")
    if text is None:
        raise Refused("a choice of the reply has no text")
    made: dict[str, Any] = {"text": cut_at(text, stops), "finish": finish_of(choice)}
    if (ids := ids_of(choice.get("token_ids"))) is not None:
        made["ids"] = ids
        listed = choice.get("logprobs")
        values = logprobs_of(listed.get("token_logprobs") if isinstance(listed, dict) else None, ids)
        made |= {} if values is None else {"logprobs": values}
    return made


def scoring(model: str, ids: Sequence[int], top: int = 0) -> Request:
    """The request for the log-probability of each of `ids`, and with `top` for as many of the likeliest at each."""
    body: dict[str, Any] = {"model": model, "prompt": [*ids], "max_tokens": 0, "echo": True, "logprobs": 1}
    if top:
        body |= {"prompt_logprobs": top, "max_tokens": 1, "echo": False}
        del body["logprobs"]
    return Request(PATH, body, tokens=len(ids) * (1 + top))


def read_scores(reply: Reply, ids: Sequence[int]) -> dict[str, Any]:
    """`{"logprobs": [...]}`, 0 at the first of `ids`, which nothing predicts; `Refused` where they are not of these."""
    listed = _first_choice(reply).get("logprobs")
    values = listed.get("token_logprobs") if isinstance(listed, dict) else None
    if not isinstance(values, list) or len(values) != len(ids) or not ids:
        raise Refused(f"no log-probability for each of {len(ids)} tokens: {printable(listed, 80)}")
    return {"logprobs": [0.0, *(logprobs_of(values[1:], ids[1:]) or [])]}


def read_top(reply: Reply, ids: Sequence[int], top: int) -> dict[str, Any]:
    """`{"ids": [[...]], "logprobs": [[...]]}`, the `top` likeliest at each of `ids`, the first of them 0."""
    listed = _first_choice(reply).get("prompt_logprobs")
    if not isinstance(listed, list) or len(listed) != len(ids):
        raise Refused(f"no likeliest ids for each of {len(ids)} tokens: {printable(listed, 80)}")
    made: dict[str, list[Any]] = {"ids": [[0] * top], "logprobs": [[0.0] * top]}
    for entry in listed[1:]:
        ranked = _ranked(entry, top)
        made["ids"].append([number for number, _ in ranked])
        made["logprobs"].append([value for _, value in ranked])
    return made


def _ranked(entry: Any, top: int) -> list[tuple[int, float]]:
    if not isinstance(entry, dict):
        raise Refused(f"no likeliest ids at a token: {printable(entry, 80)}")
    numbers = ids_of([int(name) for name in entry if str(name).isdecimal()], "prompt_logprobs") or []
    values = logprobs_of([one.get("logprob") if isinstance(one, dict) else None for one in entry.values()], numbers)
    ranked = sorted(zip(numbers, values or [], strict=True), key=lambda pair: (-pair[1], pair[0]))[:top]
    if len(ranked) < top:
        raise Refused(f"{len(ranked)} likeliest ids at a token, asked for {top}")
    return ranked


def _first_choice(reply: Reply) -> Mapping[str, Any]:
    whole = reply.json()
    choices = whole.get("choices") if isinstance(whole, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Refused(f"the reply is not one choice: {printable(whole, 80)}")
    return choices[0]
