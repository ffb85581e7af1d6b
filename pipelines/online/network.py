"""The networks of a run as one `TokenModel` for operations over the rows of a step: what answers are worth says the
critic, all else the first policy. Whenever one is asked, all ranks compute together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from datakit.clients.protocols import TokenModel, TokenRows

if TYPE_CHECKING:
    from trainers.engine.megatron.leading import Lead

CRITIC, FIRST = "critic", "first"
"""The networks, as ranks are asked for them."""
_ASKED = {CRITIC: ("values",), FIRST: ("logprobs", "entropies", "top_k", "logprobs_at")}


def served(name: str, model: TokenModel) -> dict[str, Callable[..., Any]]:
    """What ranks are asked to do together with `model`, the network `name`."""
    return {f"{name}.{question}": getattr(model, question) for question in _ASKED[name]}


class Networks:
    """A `TokenModel` whose answers all ranks give together."""

    def __init__(self, lead: Lead) -> None:
        self._lead = lead

    def logprobs(self, rows: TokenRows) -> pa.Array:
        """Log-probability of every token by the first policy, nats."""
        return self._lead.ask(f"{FIRST}.logprobs", rows)

    def entropies(self, rows: TokenRows) -> pa.Array:
        """Entropy (nats) of what the first policy would draw every token from."""
        return self._lead.ask(f"{FIRST}.entropies", rows)

    def values(self, rows: TokenRows) -> pa.Array:
        """The critic's number before every token."""
        return self._lead.ask(f"{CRITIC}.values", rows)

    def top_k(self, rows: TokenRows, k: int) -> tuple[pa.Array, pa.Array]:
        """The ids that are likeliest to the first policy at every token, and their log-probabilities."""
        asked: tuple[pa.Array, pa.Array] = self._lead.ask(f"{FIRST}.top_k", rows, k)
        return asked

    def logprobs_at(self, rows: TokenRows, ids: TokenRows) -> pa.Array:
        """Log-probabilities of the `ids` that are named, by the first policy."""
        return self._lead.ask(f"{FIRST}.logprobs_at", rows, ids)
