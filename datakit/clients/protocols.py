"""Generator, Scorer, TokenModel, Judge, Environment: what an operation may ask of a model.

A client that cannot answer at all (server down, out of memory) raises a `QuiverError` (13, 14): the work
stops, what was answered is kept. A single row it cannot answer is data: an `error` text, a null or non-finite
score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from datakit.clients.sampling import Sampling
from schemas import IDS, Column, Schema
from schemas.errors import ConfigError

Determinism = Literal["exact", "batch", "none"]
"""Whether a model answers the same rows the same: always, in the same chunks, or not."""

ANSWERS = Schema(
    "answers",
    2,
    (
        Column("prompt_row", pa.int32(), "which of the rows asked, from 0"),
        Column("sample_index", pa.int32(), "which of its answers, from 0"),
        Column("response_ids", IDS, "the tokens drawn, the stop token included; null: not given", nullable=True),
        Column("response", pa.string(), "the answer, without stop text"),
        Column(
            "logprobs",
            pa.list_(pa.float32()),
            "log-probability (nats) of each token drawn, at temperature 1; null: not given",
            nullable=True,
        ),
        Column("finish_reason", pa.string(), "stop or length; error where `error` says why there is no answer"),
        Column("error", pa.string(), "why there is no answer", nullable=True),
    ),
)
"""What a generator returns; columns that may be null may be left out, and `BESIDE` (`schemas.rows.samples`)
may stand beside them."""

TOKENIZED_PROMPTS = Schema(
    "templated prompts",
    1,
    (Column("prompt", pa.string(), "the exact text that is read"), Column("prompt_ids", IDS, "its tokens")),
)
"""What a generator reads that is asked in tokens: the `takes` of its resource."""


@runtime_checkable
class Generator(Protocol):
    """A policy that answers prompts."""

    def generate(self, rows: pa.Table, sampling: Sampling, seeds: npt.NDArray[np.uint64]) -> pa.Table:
        """Answers (`ANSWERS`) to `rows`, `sampling.samples_per_prompt` to each, in any order.

        Rows have the columns that the resource's `takes` names (`prompt_ids`, `prompt`, `messages`), and others.
        `seeds` holds one number a row; where the generator can, the answers to a row are a function of what it reads,
        the settings and its seed. One that sees no tokens leaves `response_ids` and `logprobs` null.
        """
        ...


@runtime_checkable
class Scorer(Protocol):
    """A reward model, a classifier, a function: numbers for rows."""

    @property
    def takes(self) -> Schema:
        """The columns that `score` reads of its rows; rows may hold others."""
        ...

    def score(self, rows: pa.Table) -> Mapping[str, pa.Array]:
        """Named numbers, one per row in the order of `rows`; null or non-finite where a row has none."""
        ...


TokenRows: TypeAlias = Sequence[npt.NDArray[np.int64]]
"""Rows of token ids, one array each."""


@runtime_checkable
class TokenModel(Protocol):
    """A frozen network that is asked about given tokens: a reference policy, a teacher, a critic.

    Every answer is a list column with one entry per token of each row; the first token, which nothing predicts, has 0.
    """

    def logprobs(self, rows: TokenRows) -> pa.Array:
        """Log-probability (nats, temperature 1) of every token given those before it: list<float32>."""
        ...

    def entropies(self, rows: TokenRows) -> pa.Array:
        """Entropy (nats) of the distribution that every token was drawn from: list<float32>."""
        ...

    def values(self, rows: TokenRows) -> pa.Array:
        """A scalar head's first number at the position before every token: list<float32>."""
        ...

    def top_k(self, rows: TokenRows, k: int) -> tuple[pa.Array, pa.Array]:
        """The k likeliest ids at every token, likeliest first, and their log-probabilities: lists of lists."""
        ...

    def logprobs_at(self, rows: TokenRows, ids: TokenRows) -> pa.Array:
        """Log-probabilities of the `ids` that are named for every token of each row, [T, K] a row: a list of lists."""
        ...


REPLIES = Schema(
    "replies",
    1,
    (
        Column("reply", pa.string(), "what the judge said, whole; null where it said nothing", nullable=True),
        Column("reasoning", pa.string(), "what it thought before, where it says so", nullable=True),
        Column("finish_reason", pa.string(), "stop, length (it was cut), refusal, content_filter", nullable=True),
        Column("error", pa.string(), "why there is no reply, in the server's words", nullable=True),
    ),
)
"""What a judge returns: a reply, or an `error`."""


@runtime_checkable
class Judge(Protocol):
    """A model that answers a conversation in text: what it is asked, and how its reply is read, an operation says."""

    def judge(
        self,
        conversations: pa.Array | pa.ChunkedArray,
        sampling: Sampling,
        seeds: npt.NDArray[np.uint64],
        answer_schema: Mapping[str, Any] | None = None,
    ) -> pa.Table:
        """One reply (`REPLIES`) to each of `conversations` (MESSAGES), in their order, drawn with its own seed.

        `answer_schema` (a JSON schema) is what a reply should be; a judge that cannot be held to one leaves it aside,
        so a reply is read with a parser in any case. `sampling.samples_per_prompt` is 1: who wants several votes asks
        several times, each with a seed of its own.
        """
        ...


@dataclass(frozen=True)
class Turn:
    """What an environment says to an answer: the `content` of the next turn, by a `role` (None: the conversation is
    over), and what the answer earned.
    """

    content: str | None = None
    role: str = "user"
    reward: float = 0.0


@runtime_checkable
class Environment(Protocol):
    """A game, a tool, a simulated user: what carries on a conversation behind an answer."""

    @property
    def takes(self) -> Schema:
        """The columns of a prompt that `reply` reads besides the conversation."""
        ...

    def reply(self, conversations: Sequence[Sequence[Mapping[str, str]]], rows: pa.Table) -> Sequence[Turn]:
        """One turn to each of `conversations` (role, content), the last of which is an answer; it follows from the
        conversation and its row of `rows` alone.
        """
        ...


class Answers(Protocol):
    """Answers that are kept one by one, by the key of what was asked (`datakit.run.journal`)."""

    def find(self, asked: str) -> Any | None:
        """The answer, plain JSON, to what has the key `asked`; None where there is none."""
        ...

    def add(self, asked: str, answer: object) -> None:
        """Write the answer, plain JSON, to what has that key down, so that it is found by the next run."""
        ...


@runtime_checkable
class Journaled(Protocol):
    """A client whose requests are paid for one by one."""

    def journaled(self, journal: Answers) -> object:
        """This client, with every answer written into `journal` as it comes, and what stands there not asked."""
        ...


@runtime_checkable
class Compared(Protocol):
    """A client whose model was held against another computation before it was believed."""

    @property
    def compared(self) -> Mapping[str, Any]:
        """What was compared, what was found, and how far it might have been off; plain JSON, for the manifest."""
        ...


def no_client(opened: object, protocol: type) -> ConfigError:
    """What is said of a thing that a backend opened and that is not what an operation asks: what it lacks of it."""
    kind = type(opened)
    parts = sorted(name for name in vars(protocol) if not name.startswith("_"))
    return ConfigError(
        "wrong-role",
        f"{kind.__module__}.{kind.__qualname__} is no {protocol.__name__}",
        expected=f"an object with {', '.join(parts)}: help(datakit.clients.{protocol.__name__}) has them",
        found=f"one without {', '.join(name for name in parts if not hasattr(opened, name))}",
        kept="nothing of this output",
        next="have the backend's open return such an object; then run the same command again",
    )
