"""The networks of a run as one `TokenModel` for operations over the rows of a step: what a learner beside the policy
answers it is asked, all else the first policy. Whenever one is asked, all ranks compute together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from datakit.clients.protocols import TokenModel, TokenRows
from datakit.op import Capability

if TYPE_CHECKING:
    from trainers.engine.megatron.leading import Lead

FIRST = "first"
"""The policy that the run began with, as ranks are asked for it."""
FIRST_ANSWERS: tuple[Capability, ...] = ("logprobs", "top_k")
"""What it says of tokens."""

_QUESTIONS: Mapping[Capability, tuple[str, ...]] = {
    "values": ("values",),
    "logprobs": ("logprobs", "entropies"),
    "top_k": ("top_k", "logprobs_at"),
}
"""Methods of a `TokenModel`, by what it must be able to give."""


def _questions(answers: Iterable[Capability]) -> list[str]:
    return [question for one in answers for question in _QUESTIONS[one]]


def served(name: str, model: TokenModel, answers: Iterable[Capability]) -> dict[str, Callable[..., Any]]:
    """What ranks are asked to do together with `model`, the network `name`, which is asked for `answers`."""
    return {f"{name}.{question}": getattr(model, question) for question in _questions(answers)}


class Networks:
    """A `TokenModel` whose answers all ranks give together: each of `beside` the answers by its name, all others the
    first policy.
    """

    def __init__(self, lead: Lead, beside: Mapping[str, Iterable[Capability]]) -> None:
        self._lead = lead
        self._asked = {question: name for name, answers in beside.items() for question in _questions(answers)}

    def _ask(self, question: str, *asked: Any) -> Any:
        return self._lead.ask(f"{self._asked.get(question, FIRST)}.{question}", *asked)

    def logprobs(self, rows: TokenRows) -> pa.Array:
        """Log-probability of every token, nats."""
        return self._ask("logprobs", rows)

    def entropies(self, rows: TokenRows) -> pa.Array:
        """Entropy (nats) of what every token would be drawn from."""
        return self._ask("entropies", rows)

    def values(self, rows: TokenRows) -> pa.Array:
        """A number before every token."""
        return self._ask("values", rows)

    def top_k(self, rows: TokenRows, k: int) -> tuple[pa.Array, pa.Array]:
        """The ids that are likeliest at every token, and their log-probabilities."""
        asked: tuple[pa.Array, pa.Array] = self._ask("top_k", rows, k)
        return asked

    def logprobs_at(self, rows: TokenRows, ids: TokenRows) -> pa.Array:
        """Log-probabilities of the `ids` that are named."""
        return self._ask("logprobs_at", rows, ids)
