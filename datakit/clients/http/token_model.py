"""What a server thinks of given tokens: their log-probabilities, and the likeliest ids at each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import pyarrow as pa

from datakit.clients.http import completions
from datakit.clients.http.client import HttpClient
from datakit.clients.http.exchange import Reply, Request
from datakit.clients.protocols import TokenRows
from schemas.errors import ConfigError

_NUMBERS = pa.list_(pa.float32())


@dataclass(frozen=True)
class HttpTokenModel(HttpClient):
    """A `TokenModel` over completions; a row that the server refuses has no number that is finite."""

    def logprobs(self, rows: TokenRows) -> pa.Array:
        """Log-probability of every token (`echo`): list<float32>, 0 at the first."""
        model = self.asking.address.model
        made = self._asked(rows, lambda ids: completions.scoring(model, ids), completions.read_scores)
        lost = [[float("nan")] * len(ids) for ids in rows]
        return pa.array([one.get("logprobs", none) for one, none in zip(made, lost, strict=True)], _NUMBERS)

    def top_k(self, rows: TokenRows, k: int) -> tuple[pa.Array, pa.Array]:
        """The k likeliest ids at every token and their log-probabilities (`prompt_logprobs`, as vLLM has it)."""
        model = self.asking.address.model
        made = self._asked(
            rows,
            lambda ids: completions.scoring(model, ids, k),
            lambda reply, ids: completions.read_top(reply, ids, k),
        )
        ids = [one.get("ids", [[0] * k] * len(row)) for one, row in zip(made, rows, strict=True)]
        values = [one.get("logprobs", [[float("nan")] * k] * len(row)) for one, row in zip(made, rows, strict=True)]
        return pa.array(ids, pa.list_(pa.list_(pa.int32()))), pa.array(values, pa.list_(_NUMBERS))

    def _asked(
        self,
        rows: TokenRows,
        form: Callable[[Sequence[int]], Request],
        read: Callable[[Reply, Sequence[int]], dict[str, Any]],
    ) -> list[Any]:
        """What is read of the reply to each row; each is asked by itself, whatever rows stand beside it."""
        listed = [row.tolist() for row in rows]
        readers = [lambda reply, ids=ids: read(reply, ids) for ids in listed]
        return self.asking.each([(form(ids), reader) for ids, reader in zip(listed, readers, strict=True)])

    def entropies(self, rows: TokenRows) -> NoReturn:
        """No server says it: `ConfigError`."""
        raise _never("the entropy at a token")

    def values(self, rows: TokenRows) -> NoReturn:
        """No server says them: `ConfigError`."""
        raise _never("the number of a scalar head at a token")

    def logprobs_at(self, rows: TokenRows, ids: TokenRows) -> NoReturn:
        """No server says them: `ConfigError`."""
        raise _never("the log-probabilities of named ids")


def _never(what: str) -> ConfigError:
    return ConfigError("no-capability", f"a server does not say {what}", kept="nothing was started")
