"""A model that a server answers for: `http://host:8000/v1#model`, whichever program serves it there.

It is known by the model's name and the user's `revision`, never by its address: two servers of one model share results.
The client is `datakit.clients.http`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from datakit.clients import TOKENIZED_PROMPTS, Determinism
from datakit.clients.http.limits import Limits
from datakit.op import NOTHING, Capability, Op
from datakit.template import Rendering
from pipelines.backends.checkpoint import Checkpoint
from pipelines.graph.backend import Backend, Placement, Role, Step, placement_of, register
from pipelines.graph.external import ExternalModel
from pipelines.graph.node import GraphBuilder, Node
from pipelines.graph.placement import IDENTITY, parted
from schemas import Schema
from schemas.errors import ConfigError, printable
from schemas.rows.samples import REASONING
from schemas.rows.usage import USAGE_NAMES
from schemas.store.storage import shown
from schemas.tokenizer import folder_identity, read_folder

if TYPE_CHECKING:
    from datakit.clients.http import Address, Asking
    from datakit.clients.http.usage import Meter

_INSIDE = ("inside", "gpus", "alone", "workers", "threads", "precision")
"""Of a placement: what a model elsewhere has no say in."""


@dataclass(frozen=True, kw_only=True)
class Served(Placement):
    """How a server is asked.

    `api`: `chat` sends conversations and gets text; `completions` sends prompts, with a `tokenizer` (a folder) as its
    tokens, and then gets tokens and their log-probabilities; `generate` is vLLM's endpoint for tokens alone. Left out,
    it is `completions` where there is a tokenizer, else `chat`. `separately`: one request an answer, for a server that
    takes no `n`; `stream`: answers come in pieces, and are the same. A reward model is asked as `reward` says
    (`datakit.clients.http.scorer`); `outputs` names its numbers, with a `+` between them. `key` is the name of the
    environment variable that holds a key (or, with `_FILE` behind it, the place of a file that does); `revision` the
    user's own word for which weights are served; `timeout`, `connect` and `first_byte` are seconds of one request;
    `patience` is how long a server may turn every request away; `determinism` whether the same request gives the same
    answer: always (`exact`), in the same batch, or not. With `usage`, rows say what their requests took, in columns;
    `prices` is a file with what a million tokens cost.
    """

    inside: bool = False
    concurrency: int = Limits.concurrency
    timeout: float | None = Limits.total
    connect: float = Limits.connect
    first_byte: float | None = Limits.first_byte
    patience: float = Limits.patience
    key: str = ""
    tokenizer: str = ""
    separately: bool = False
    stream: bool = False
    determinism: Determinism = "none"
    usage: bool = False
    prices: str = ""
    outputs: str = field(default="reward", metadata=IDENTITY)
    reward: Literal["classify", "pooling", "reward"] = field(default="classify", metadata=IDENTITY)
    api: Literal["", "chat", "completions", "generate"] = field(default="", metadata=IDENTITY)
    revision: str = field(default="", metadata=IDENTITY)

    def faults(self) -> list[str]:
        """Which numbers are too low."""
        times = {"connect": self.connect, "first_byte": self.first_byte, "patience": self.patience}
        low = [f"{name} {value} is not above 0" for name, value in times.items() if value is not None and value <= 0]
        if self.chosen_api == "generate" and not self.tokenizer:
            low.append("api generate sends tokens: tokenizer=FOLDER is needed")
        if self.chosen_api == "generate" and self.stream:
            low.append("api generate gives answers whole: leave stream out, or api=completions")
        if self.api == "chat" and self.tokenizer:
            low.append("api chat sends conversations as they are: leave the tokenizer out")
        return [*super().faults(), *low]

    @property
    def chosen_api(self) -> Literal["chat", "completions", "generate"]:
        """The endpoint that answers come from."""
        return self.api or ("completions" if self.tokenizer else "chat")


@register
class Http(Backend):
    """A server with the endpoints that servers of the field share."""

    kind: ClassVar[str] = "http"
    form: ClassVar[str] = "a model that a server answers for"
    example: ClassVar[str] = "http://localhost:8000/v1#llama"
    schemes: ClassVar[tuple[str, ...]] = ("http", "https")
    roles: ClassVar[Mapping[Role, frozenset[Capability]]] = {
        "generator": frozenset({"seeds", "top_k"}),
        "judge": frozenset({"seeds"}),
        "scorer": frozenset({"scores"}),
    }
    placement: ClassVar[Placement] = Served()
    settings: ClassVar[tuple[str, ...]] = tuple(one.name for one in fields(Served) if one.name not in _INSIDE)

    def node(self, plan: GraphBuilder, reference: str) -> Node:
        from datakit.clients.http.address import Address

        address = Address.of(reference)
        if not address.model:
            raise ConfigError(
                "bad-address",
                f"{shown(reference)} does not say which model is asked there",
                expected="the name that the server has for it, behind a #",
                kept="nothing was started",
                next=f"{shown(address.bases[0])}#NAME; the server lists its names at {shown(address.bases[0])}/models",
            )
        identity = {"name": "http", "version": 1, "params": {"model": address.model}}
        return ExternalModel(
            label=address.model, root=plan.root, reference=reference, backend=self.kind, identity=identity
        )

    def settled(self, node: Node) -> Node:
        """Of a node with a tokenizer: its identity, its template, where it lies; prices have to be there."""
        from datakit.clients.http.address import Address

        asked = _asked(node)
        _meter(Address.of(parted(node.url)[0]), asked)
        folder = asked.tokenizer
        if not folder:
            return node
        assert isinstance(node, ExternalModel), node
        row = read_folder(folder)
        if row is None:
            raise ConfigError(
                "no-tokenizer",
                f"there is no tokenizer.json in {printable(folder, 200)}",
                expected=f"the folder of the tokenizer that {printable(node.name)} reads",
                kept="nothing was started",
            )
        return replace(
            node,
            backend=HttpTokens.kind,
            reference=f"{node.reference},tokenizer={os.path.abspath(folder)}",
            tokenizer=folder_identity(folder),
            chat_template=row["chat_template"] is not None,
        )

    def outputs(self, node: Node, role: Role) -> tuple[str, ...]:
        asked = _asked(node)
        if role == "scorer":
            return () if asked.reward == "reward" else tuple(asked.outputs.split("+"))
        thinks = role == "generator" and asked.chosen_api == "chat"
        measured = USAGE_NAMES if asked.usage and role in ("generator", "judge") else ()
        return (*super().outputs(node, role), *((REASONING.name,) if thinks else ()), *measured)

    def takes(self, node: Node, role: Role, rows: Schema) -> Schema:
        if role == "scorer":
            return rows.selecting("messages", *(name for name in ("response", "tools") if name in rows))
        if role != "generator":
            return NOTHING
        if _asked(node).chosen_api == "completions":
            return TOKENIZED_PROMPTS.selecting("prompt")
        return rows.selecting("messages", *(("tools",) if "tools" in rows else ()))

    def open(self, url: str, role: Role, takes: Schema, placement: Placement) -> object:
        from datakit.clients.http import Address, HttpGenerator, HttpJudge, HttpScorer, HttpTokenModel
        from datakit.tokenizers.tokenizer import Tokenizer

        assert isinstance(placement, Served), placement
        address = Address.of(parted(url)[0])
        asking, meter = _opened(address, placement), _meter(address, placement)
        if role == "judge":
            return HttpJudge(asking, meter=meter, stream=placement.stream)
        if role == "scorer":
            return HttpScorer(asking, takes, placement.reward, tuple(placement.outputs.split("+")))
        if role == "model":
            return HttpTokenModel(asking)
        tokenizer = Tokenizer.of_folder(placement.tokenizer) if placement.tokenizer else None
        return HttpGenerator(asking, placement.chosen_api, tokenizer, placement.separately, meter, placement.stream)

    def health(self, node: Node) -> None:
        """The servers are there, serve the model, and answer as they did first (`datakit.clients.http.probes`)."""
        from datakit.clients.http import Address, probes

        placement, address = _asked(node), Address.of(parted(node.url)[0])
        asking = _opened(address, placement)
        try:
            probes.require_served(asking)
            api: Literal["chat", "completions"] = "chat" if placement.chosen_api == "chat" else "completions"
            made = probes.answers(asking, api)
            probes.require_unchanged(node.root, (_served(address, placement), api), made, placement.determinism)
        finally:
            asking.close()

    def reach(self, node: Node, seconds: float) -> None:
        """The servers are there, and serve the model where they list what they serve."""
        from datakit.clients.http import Address, Asking, probes
        from datakit.clients.http.address import Key

        placement, address = _asked(node), Address.of(parted(node.url)[0])
        limits = Limits(connect=seconds, first_byte=seconds, total=seconds, tries=1)
        asking = Asking.opened(address, Key.named(placement.key), limits)
        try:
            probes.require_served(asking)
        finally:
            asking.close()

    def determinism(self, node: Node) -> Determinism:
        return _asked(node).determinism

    def notes(self, node: Node) -> Sequence[str]:
        from datakit.clients.http.address import Address

        placement, address = _asked(node), Address.of(parted(node.url)[0])
        if not placement.key or address.is_private:
            return ()
        return (f"the key in {placement.key} is sent unencrypted to {printable(', '.join(address.hosts), 200)}",)


@register
class HttpTokens(Http):
    """A server that is asked in tokens of a tokenizer that lies here, and answers in tokens."""

    kind: ClassVar[str] = "http-tokens"
    form: ClassVar[str] = "a model that a server answers for in tokens"
    example: ClassVar[str] = "http://localhost:8000/v1#llama,tokenizer=./llama"
    schemes: ClassVar[tuple[str, ...]] = ()
    roles: ClassVar[Mapping[Role, frozenset[Capability]]] = {
        "generator": frozenset({"token_ids", "logprobs", "seeds", "top_k"}),
        "model": frozenset({"token_ids", "logprobs", "top_k"}),
    }

    def takes(self, node: Node, role: Role, rows: Schema) -> Schema:
        return TOKENIZED_PROMPTS if role == "generator" else NOTHING

    def steps(self, op: Op, role: Role, rows: Schema, rendering: Rendering, max_length: int | None) -> Sequence[Step]:
        """Those of a checkpoint: templated with an open answer or with the one that rows have, and tokenized."""
        return Checkpoint().steps(op, role, rows, rendering, max_length)

    def tokenizer(self, url: str) -> object:
        from datakit.tokenizers.tokenizer import Tokenizer

        return Tokenizer.of_folder(dict(text.split("=", 1) for text in parted(url)[1])["tokenizer"])


def _asked(node: Node) -> Served:
    placement = placement_of(node)
    assert isinstance(placement, Served), placement
    return placement


def _opened(address: Address, placement: Served) -> Asking:
    from datakit.clients.http import Asking
    from datakit.clients.http.address import Key

    return Asking.opened(address, Key.named(placement.key), _limits(placement), _served(address, placement))


def _meter(address: Address, placement: Served) -> Meter:
    """What is written down of requests: seconds for those who ask, unless the same bytes are promised of every run."""
    from datakit.clients.http.usage import Meter, Price

    price = Price.of(address.model, placement.prices) if placement.prices else None
    return Meter(price, timed=placement.usage and placement.determinism != "exact")


def _limits(placement: Served) -> Limits:
    return Limits(
        concurrency=placement.concurrency,
        connect=placement.connect,
        first_byte=placement.first_byte,
        total=placement.timeout or Limits.total,
        patience=placement.patience,
    )


def _served(address: Address, placement: Served) -> str:
    """What is asked, as journals know it: never its address."""
    return f"{address.model}\x1f{placement.revision}"
