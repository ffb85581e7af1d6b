"""What the operations share that ask a model about given tokens and put its numbers beside the rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa

from datakit.clients.protocols import TokenModel
from datakit.columns.token_lists import no_packs
from datakit.op import Context, Label, Precision
from schemas.settings import DEFAULT_UNNAMED


@dataclass(frozen=True, kw_only=True)
class TokenLabel(Label):
    """Base of the operations that ask a model about the tokens of rows: what it answers is paid for once, and a row
    with a number that is not finite is rejected, of which none is allowed unless the run says how many.
    """

    needs: ClassVar[tuple[str, ...]] = ("model",)
    paid: ClassVar[bool] = True
    max_rejected: ClassVar[int | None] = 0

    rows_per_chunk: int = 1024
    """Rows read together; part of the identity, because a model's arithmetic may depend on its batch."""
    precision: Precision = field(default="fp32", metadata=DEFAULT_UNNAMED)
    """What a network computes in that is opened for it: that of the training that reads what it answers."""

    def model(self, rows: pa.Table, ctx: Context) -> TokenModel:
        """The model that is asked about `rows`; `DataError` where these are packs."""
        no_packs(rows, self.name)
        model = ctx.resources["model"]
        assert isinstance(model, TokenModel), f"{type(model).__name__} is no TokenModel"
        return model
