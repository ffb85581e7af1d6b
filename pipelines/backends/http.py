"""A model that a server answers for: `http://host:8000/v1#model`, whichever program serves it there.

It is known by the model's name and the user's `revision`, never by its address: two servers of one model share results.
The client is `datakit.clients.http`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from datakit.op import NOTHING, Capability
from pipelines.graph.backend import Backend, Placement, Role, placement_of, register
from pipelines.graph.external import ExternalModel
from pipelines.graph.node import GraphBuilder, Node
from pipelines.graph.placement import IDENTITY
from schemas import Schema
from schemas.errors import ConfigError, printable
from schemas.store.storage import shown

if TYPE_CHECKING:
    from datakit.clients.http import Address, Limits


@dataclass(frozen=True, kw_only=True)
class Served(Placement):
    """How a server is asked.

    `key` is the name of the environment variable that holds a key (or, with `_FILE` behind it, the place of a file
    that does); `revision` the user's own word for which weights are served; `timeout`, `connect` and `first_byte` are
    seconds of one request; `patience` is how long a server may turn every request away.
    """

    inside: bool = False
    concurrency: int = 64
    timeout: float | None = 600.0
    connect: float = 10.0
    first_byte: float | None = None
    patience: float = 300.0
    key: str = ""
    revision: str = field(default="", metadata=IDENTITY)

    def faults(self) -> list[str]:
        """Which numbers are too low."""
        times = {"connect": self.connect, "first_byte": self.first_byte, "patience": self.patience}
        low = [f"{name} {value} is not above 0" for name, value in times.items() if value is not None and value <= 0]
        return [*super().faults(), *low]


@register
class Http(Backend):
    """A server with the endpoints that servers of the field share."""

    kind: ClassVar[str] = "http"
    form: ClassVar[str] = "a model that a server answers for"
    example: ClassVar[str] = "http://localhost:8000/v1#llama"
    schemes: ClassVar[tuple[str, ...]] = ("http", "https")
    roles: ClassVar[Mapping[Role, frozenset[Capability]]] = {"judge": frozenset()}
    placement: ClassVar[Placement] = Served()
    settings: ClassVar[tuple[str, ...]] = (
        *("concurrency", "timeout", "connect", "first_byte", "patience", "key", "revision"),
    )
    reproducible: ClassVar[Literal["exact", "batch", "none"]] = "none"

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

    def takes(self, node: Node, role: Role, rows: Schema) -> Schema:
        return NOTHING

    def open(self, url: str, role: Role, takes: Schema, placement: Placement) -> object:
        from datakit.clients.http import Address, Asking, HttpJudge
        from datakit.clients.http.address import Key

        assert isinstance(placement, Served), placement
        address = Address.of(url)
        asking = Asking.opened(address, Key.named(placement.key), _limits(placement), _served(address, placement))
        return HttpJudge(asking)

    def notes(self, node: Node) -> Sequence[str]:
        from datakit.clients.http.address import Address

        placement, address = placement_of(node), Address.of(node.url)
        assert isinstance(placement, Served), placement
        if not placement.key or address.is_private:
            return ()
        return (f"the key in {placement.key} is sent unencrypted to {printable(', '.join(address.hosts), 200)}",)


def _limits(placement: Served) -> Limits:
    from datakit.clients.http.limits import Limits

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
