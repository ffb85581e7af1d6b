"""What the operations share that ask a model: what it answers is paid for, and no answer may be without sense.

`ScorerLabel` asks a scorer about whole rows; `datakit.clients.token_label` a network about given tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from datakit.op import NOTHING, Capability, Label
from schemas import Schema


@dataclass(frozen=True, kw_only=True)
class AskingLabel(Label):
    """Base of the operations that put what a model answers beside rows: it is paid for once, and a row with a number
    that is not finite is rejected, of which none is allowed unless the run says how many.
    """

    paid: ClassVar[bool] = True
    max_rejected: ClassVar[int | None] = 0
    capabilities: ClassVar[tuple[Capability, ...]]
    """What the model must be able to answer."""

    rows_per_chunk: int = 1024
    """Rows asked about together; part of the identity, because a model's arithmetic may depend on its batch."""

    @property
    def asks(self) -> frozenset[Capability]:
        return frozenset(self.capabilities)


@dataclass(frozen=True, kw_only=True)
class ScorerLabel(AskingLabel):
    """Base of the operations that ask a reward model, or a function, for its numbers of every row."""

    needs: ClassVar[tuple[str, ...]] = ("scorer",)
    capabilities: ClassVar[tuple[Capability, ...]] = ("scores",)

    @property
    def takes(self) -> Schema:
        """Nothing of its own: the scorer's columns are checked through its resource."""
        return NOTHING
