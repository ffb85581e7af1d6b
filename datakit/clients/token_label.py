"""What the operations share that ask a model about given tokens and put its numbers beside the rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa

from datakit.clients.asking_label import AskingLabel
from datakit.clients.protocols import TokenModel, no_client
from datakit.columns.token_lists import no_packs
from datakit.op import Context, Precision
from schemas.canonical import DEFAULT_UNNAMED


@dataclass(frozen=True, kw_only=True)
class TokenLabel(AskingLabel):
    """Base of the operations that ask a network about the tokens of rows."""

    needs: ClassVar[tuple[str, ...]] = ("model",)

    precision: Precision = field(default="fp32", metadata=DEFAULT_UNNAMED)
    """What a network computes in that is opened for it: that of the training that reads what it answers."""

    def model(self, rows: pa.Table, ctx: Context) -> TokenModel:
        """The model that is asked about `rows`; `DataError` where these are packs."""
        no_packs(rows, self.name)
        model = ctx.resources["model"]
        if not isinstance(model, TokenModel):
            raise no_client(model, TokenModel)
        return model
