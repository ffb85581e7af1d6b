"""Whether a server still is what it was: the answers to eight short prompts, greedily, and the name of who gives them.

They are written down below the root of the results when a model is first asked, and held against it before every run:
answers that are kept of one model are never continued with those of another.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from datakit.clients.http import chat, completions
from datakit.clients.http.asking import Asking
from datakit.clients.http.exchange import Reply, Request
from datakit.clients.protocols import Determinism
from datakit.clients.sampling import Sampling
from schemas.canonical import canonical, json_digest
from schemas.errors import IntegrityError, ServiceError, printable
from schemas.store.opening import open_store
from schemas.untrusted import strict_json

PROMPTS = (
    *("2, 3, 5, 7,", "The capital of France is", "def add(a, b):", "Once upon a time"),
    *("Water boils at", "SELECT * FROM", "Der Hund ist", "A list of colours: red,"),
)
FOLDER = "_servers"
_GREEDY = Sampling(max_new_tokens=8, greedy=True)
_LIMIT = 1 << 20
_LISTED = 5


def answers(asking: Asking, api: Literal["chat", "completions"]) -> dict[str, Any]:
    """Who answers and what to each of `PROMPTS` (null: refused); nothing where the server has no such endpoint."""
    model = asking.address.model
    requests = [
        chat.request(model, [{"role": "user", "content": text}], _GREEDY, 0)
        if api == "chat"
        else completions.request(model, text, _GREEDY, 0)
        for text in PROMPTS
    ]
    try:
        made = asking.all(requests, lambda reply: (chat if api == "chat" else completions).read(reply, 1))
    except ServiceError as fault:
        if fault.slug == "no-endpoint":
            return {}  # a reward model, say: it is known by its name alone
        raise
    texts = [one.get("choices", {}).get("0", {}).get("text") for one in made]
    return {"model": next((one["model"] for one in made if "model" in one), model), "answers": texts}


def require_served(asking: Asking) -> None:
    """`ServiceError` where a server lists its models (`/models`) and the one that is asked is not among them."""
    request = Request("models", {})
    for base, reply in zip(asking.address.bases, asking.loop.got(request), strict=True):
        names = _listed(reply)
        if names and asking.address.model not in names:
            raise ServiceError(
                "no-model",
                f"{base} serves no {printable(asking.address.model)}",
                expected=", ".join(printable(name) for name in names[:_LISTED]),
                found=printable(asking.address.model),
                kept="nothing was started",
                next=f"name one that it serves: {base}#{printable(names[0], 200)}",
            )


def _listed(reply: Reply) -> list[str]:
    """The names of the models in a reply; none where the server does not list them."""
    try:
        data = strict_json(reply.data)["data"] if reply.status == 200 else []
        return [one["id"] for one in data if isinstance(one["id"], str)]
    except Exception:  # whatever a parser makes of what a server answers: no list
        return []


def require_unchanged(root: str, served: tuple[str, ...], now: dict[str, Any], determinism: Determinism) -> None:
    """Write `now` down as the answers of `served` (a model, and how it is asked), or hold it against what was written:
    `IntegrityError` where they differ; of a server that is not `exact`, where most answers do, or the model's name.
    """
    store, place = open_store(root)
    folder = store.join(place, FOLDER)
    path = store.join(folder, f"{json_digest([*served])[:16]}.json")
    store.make_folder(folder)
    if not now or store.put_if_absent(path, canonical(now).encode(), folder):
        return
    before = json.loads(store.read(path, _LIMIT))
    pairs = list(zip(before["answers"], now["answers"], strict=True))
    other = [number for number, (was, has) in enumerate(pairs) if was != has]
    if before["model"] == now["model"] and len(other) <= (0 if determinism == "exact" else len(pairs) // 2):
        return
    first = other[0] if other else 0
    raise IntegrityError(
        "server-changed",
        f"{printable(now['model'])} answers {len(other)} of {len(pairs)} probes otherwise than when it was first asked",
        expected=f"{printable(before['model'])}: {printable(PROMPTS[first])} {printable(pairs[first][0])}",
        found=f"{printable(now['model'])}: {printable(PROMPTS[first])} {printable(pairs[first][1])}",
        where=path,
        kept="what it answered before, and what was made of that",
        next="give other weights a name of their own, behind the model's: revision=NAME",
    )
