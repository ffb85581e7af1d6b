"""vLLM's endpoint for rollouts, `/inference/v1/generate`: token ids out, token ids and log-probabilities in, no text.

Nothing is templated or tokenized by the server (it is started with `--enable-scale-out`); the text of an answer is
decoded here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from datakit.clients.http.chat import drawn
from datakit.clients.http.choices import choices_of, finish_of, ids_of, logprobs_of
from datakit.clients.http.exchange import Refused, Reply, Request
from datakit.clients.sampling import Sampling

PATH = "/inference/v1/generate"


def request(
    model: str, ids: Sequence[int], sampling: Sampling, seed: int, count: int = 1, *, stop_ids: Sequence[int] = ()
) -> Request:
    """The request for `count` answers to the tokens `ids`."""
    params = {"n": count, **drawn(sampling, seed, count), "logprobs": 1}
    if sampling.stop:
        params["stop"] = list(sampling.stop)
    if stop_ids:
        params["stop_token_ids"] = list(stop_ids)
    body = {"model": model, "token_ids": [*ids], "sampling_params": params}
    return Request(PATH, body, tokens=count * sampling.max_new_tokens)


def read(reply: Reply, count: int) -> dict[str, Any]:
    """The answers of a reply, as `choices_of` has them, without their texts."""
    return choices_of(reply.json(), count, _answer)


def _answer(choice: Mapping[str, Any]) -> dict[str, Any]:
    ids, listed = ids_of(choice.get("token_ids")), choice.get("logprobs")
    if ids is None:
        raise Refused("a choice of the reply has no token ids")
    made: dict[str, Any] = {"ids": ids, "finish": finish_of(choice)}
    content = listed.get("content") if isinstance(listed, dict) else None
    if isinstance(content, list) and all(isinstance(one, dict) for one in content):
        if any(one.get("token_id", number) != number for one, number in zip(content, ids, strict=False)):
            raise Refused("the log-probabilities are those of other tokens")
        made["logprobs"] = logprobs_of([one.get("logprob") for one in content], ids)
    return made
