"""A judge that answers in text, over chat completions: what is asked and how a reply is read, the operation says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.clients.http import chat
from datakit.clients.http.client import HttpClient
from datakit.clients.http.usage import COUNTED, Meter
from datakit.clients.protocols import REPLIES
from datakit.clients.sampling import Sampling
from datakit.clients.seeds import base_seed
from schemas.rows.usage import USAGE


@dataclass(frozen=True)
class HttpJudge(HttpClient):
    """Asks the model at the address of `asking`; `structured`: the server can be held to a JSON schema."""

    structured: bool = True
    meter: Meter = COUNTED
    stream: bool = False

    def judge(
        self,
        conversations: pa.Array | pa.ChunkedArray,
        sampling: Sampling,
        seeds: npt.NDArray[np.uint64],
        answer_schema: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """One reply (`REPLIES`) to each conversation, with what it took (`USAGE`)."""
        requests = [
            chat.request(
                self.asking.address.model, messages, sampling, base_seed(seed),
                answer_schema=answer_schema if self.structured else None,
            )
            for messages, seed in zip(conversations.to_pylist(), seeds.tolist(), strict=True)
        ]  # fmt: skip
        requests = [replace(one, stream=self.stream) for one in requests]
        made = self.asking.all(requests, lambda reply: chat.read(reply, 1, sampling.stop))
        rows = [{**_row(one), **self.meter.row(one, 1)} for one in made]
        schema = REPLIES.adding(*USAGE)
        arrays = [pa.array([row.get(column.name) for row in rows], column.type) for column in schema.columns]
        return pa.Table.from_arrays(arrays, schema=schema.arrow)


def _row(answer: Mapping[str, Any]) -> dict[str, Any]:
    if "refused" in answer:
        return {"error": answer["refused"]}
    choice = answer["choices"].get("0", {"error": "the reply has no choices"})
    if "error" in choice:
        return {"error": choice["error"]}
    return {"reply": choice["text"], "finish_reason": choice["finish"], "reasoning": choice.get("reasoning")}
