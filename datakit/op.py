"""What an operation is: a frozen dataclass that says which rows it takes and gives, and works on whole columns.

The dataclass is its configuration, its hash, its JSON in the manifest and its line in the log. Six shapes say how rows
go in and come out, and that is all a runner (`datakit.apply`) needs to know:

    Read     none -> many           io.jsonl
    Label    each row stays and gains columns        label.length, template.chat, tokenize.mask
    Keep     each row stays or goes, with a reason   filter.where
    Expand   each row becomes many                   generate.complete
    Gather   rows are seen together                  filter.best_of (a shard at a time), blend.shuffle (`GatherAll`)
    Blend    many datasets -> one                    blend.mix

Operations hold no validation of rows: the runner checks `takes` before the work and the given schema after it. What an
operation needs besides rows and settings (a tokenizer, a policy, a reward model) it names in `needs` and finds, opened,
in its `Context`.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa

from schemas import Column, Schema
from schemas.canonical import identity_fields
from schemas.dataset import Dataset
from schemas.errors import ConfigError
from schemas.manifest import Manifest
from schemas.settings import choice_faults, parse

if TYPE_CHECKING:
    from datakit.templating.rendering import Rendering

NOTHING = Schema("nothing", 1, ())
"""What an operation takes that asks no column of its rows."""

Capability = Literal["token_ids", "logprobs", "seeds", "top_k", "scores", "values"]
"""What a model can give besides text: the tokens it read and drew, their log-probabilities, answers that follow from a
seed, a cut to (or a list of) the k likeliest tokens, numbers of rows, numbers of tokens.
"""

Precision = Literal["fp32", "bf16"]
"""What the weights of a network and its arithmetic are."""

REJECTION_COLUMNS = (
    Column("reason", pa.string(), "why the row was dropped"),
    Column("value", pa.float64(), "the measurement that decided, where there is one", nullable=True),
    Column("threshold", pa.string(), "what it was held against", nullable=True),
)
"""What a rejected row carries besides its own columns."""


@dataclass(frozen=True)
class Context:
    """Where a piece of work stands: the run's seed, the shard's index, what was prepared, the opened resources and the
    key of each (`Resource.content_key`: its content, never its place).
    """

    seed: int = 0
    shard: int = 0
    prepared: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, Any] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)

    def rng(self, *names: object) -> np.random.Generator:
        """A generator that is a function of the seed and `names` alone, so that no order of work changes it."""
        text = "\x1f".join(map(str, (self.seed, *names)))
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))


@dataclass(frozen=True)
class Result:
    """Rows that come out, and rows that were dropped (input columns where known, and `REJECTION_COLUMNS`)."""

    rows: pa.Table
    rejected: pa.Table | None = None
    counts: Mapping[str, float] = field(default_factory=dict)


BYTES_PER_TOKEN = 12
"""Stored bytes of a token where only its number is known: its text in an answer, or text that will be tokenized."""


@dataclass(frozen=True)
class Size:
    """Rows and stored bytes of a dataset, made or to be made."""

    rows: float = 0.0
    bytes: float = 0.0

    def times(self, factor: float) -> Size:
        """So many times the rows, each as wide as before."""
        return Size(self.rows * factor, self.bytes * factor)

    def wider(self, factor: float) -> Size:
        """As many rows, with so many times the bytes."""
        return Size(self.rows, self.bytes * factor)


@dataclass(frozen=True)
class FilterDecision:
    """The decision over each row: `keep` (bool, no nulls); for the rows that go, reason, value and threshold.
    `counts` are summed in the manifest.
    """

    keep: pa.Array
    reason: pa.Array | str
    value: pa.Array | None = None
    threshold: pa.Array | str | None = None
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Op(ABC):
    """Base of the six shapes. `name` is family.file; `version` rises when the same settings give other rows."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    needs: ClassVar[tuple[str, ...]] = ()
    older_names: ClassVar[Mapping[str, str]] = {}
    """What settings were called first: still taken, and what keys of tasks are made of."""
    paid: ClassVar[bool] = False
    """Whether its outputs are kept chunk by chunk, so that a crash never makes anyone pay twice."""
    renames: ClassVar[bool] = False
    """Whether a column that comes out may hold what another column of that name or of any other held."""
    mends_repeats: ClassVar[str] = (
        "mend those ids, or read the files without their id column: ids are then made of the content"
    )
    """What to do where two rows that come out have one key."""
    replaced_facts: ClassVar[frozenset[str]] = frozenset()
    """Facts of its inputs that do not hold for its result; what holds instead says `facts`."""
    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    """Settings under which it makes columns that others ask for: what an error says to run where one is missing."""
    judges: ClassVar[bool] = False
    """Whether the numbers that it adds say how good an answer is: they stand in the view `rewards` of the catalog."""
    of_reference: ClassVar[bool] = False
    """Whether the model that it asks is the reference of the training that reads its columns, where one is known."""
    max_rejected: ClassVar[int | None] = None
    """How many rows it may reject unless the run says otherwise; None: dropping rows is its work."""

    loses_rows: ClassVar[bool] = False
    """Whether a row that it rejects is a loss that a person is told of at the end; others leave rows out on purpose."""

    def __new__(cls, **settings: Any) -> Self:
        """`ConfigError` for a setting that is one of a few texts, and none of these, before anything reads it."""
        choice_faults(cls, settings).raise_any(f"settings of {cls.name}", f"quiver ops {cls.name}")
        return super().__new__(cls)

    @property
    def rejects(self) -> tuple[Column, ...]:
        """What a rejected row holds besides the columns it came with and `REJECTION_COLUMNS`."""
        return ()

    @property
    def top_k(self) -> int:
        """How many of the likeliest ids it asks a language model for at every token; 0: none."""
        return 0

    @property
    def asks(self) -> frozenset[Capability]:
        """What the model among its `needs` must be able to give; checked before anything runs."""
        return frozenset()

    @property
    def precision(self) -> Precision:
        """What the model among its `needs` computes in, where it is a network that is opened for this operation."""
        return "fp32"

    @property
    def gold(self) -> str:
        """The text column whose value it must be able to read whatever its other texts are: what it cannot is refused
        before any work. Empty where there is none.
        """
        return ""

    @property
    def rendering(self) -> Rendering | None:
        """How it turns conversations into text; None where it does not. One that writes that text (and does not only
        measure it) replaces the fact of the inputs' template, and its own is known before any work.
        """
        return None

    @property
    def token_bytes(self) -> int:
        """Bytes of its columns for each token of the rows, before compression; 0 where they are not per token."""
        return 0

    @property
    def answer_tokens(self) -> int:
        """Tokens of each answer that it draws, at most; 0 where it draws none."""
        return 0

    def grown(self, given: Size) -> Size:
        """About what comes of as much, for the estimate of disk room before a run; columns of `token_bytes` are added.
        The default is for rows that stay, go beside the result, or gain a column that repeats itself.
        """
        return given

    @property
    @abstractmethod
    def takes(self) -> Schema:
        """The columns it reads; rows may hold others."""

    @abstractmethod
    def gives(self, *inputs: Schema) -> Schema:
        """The schema that comes out for inputs of these schemas (already known to satisfy `takes`)."""

    def with_outputs(self, outputs: Mapping[str, tuple[str, ...]]) -> Op:
        """The operation over models that call their numbers so, by the name of each in `needs` (empty: only the answers
        tell). Itself, but for an operation whose columns follow those names; `ConfigError` where it asks for others.
        """
        return self

    def over(self, inputs: Sequence[Schema | None], named: Collection[str]) -> Op:
        """The operation as a command runs it over rows of these schemas (None: not known yet), where the settings
        `named` were given: itself, but where another default suits such rows.
        """
        return self

    def pinned(self) -> Self:
        """The operation with the digests of the files that it names, as they are now: they are read for that once."""
        return self

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """Plain values over the whole first input (a quantile, a mean), asked once; they come back in the context."""
        return {}

    def facts(self, ctx: Context) -> Mapping[str, Any]:
        """What the result's manifest says besides what its inputs' manifests did; the same for every shard."""
        return {}

    def advice(self, reason: str, detail: str) -> str:
        """What to do about rows rejected for `reason`; `detail`: what the first was held against. Empty: mend them."""
        return ""

    @property
    def reported_means(self) -> tuple[str, ...]:
        """Number columns of the result whose means are printed when it is finished: by default those that an
        operation adds which judges.
        """
        added: tuple[Column, ...] = getattr(self, "adds", ()) if self.judges else ()
        return tuple(column.name for column in added if pa.types.is_floating(column.type))

    def notes(self, made: Manifest) -> tuple[str, ...]:
        """Notes for a person on the finished result, printed once: a line each."""
        return ()

    def params(self) -> dict[str, Any]:
        """The settings as plain JSON, under the names that they had first; one that was added later (`DEFAULT_UNNAMED`)
        only where it is not its default.
        """
        first = {name: older for older, name in self.older_names.items()}
        return {first.get(name, name): value for name, value in identity_fields(self).items()}

    def to_json(self) -> dict[str, Any]:
        """Name, version and settings: what the manifest records and the task key is taken of."""
        return {"name": self.name, "version": self.version, "params": self.params()}

    @classmethod
    def of(cls, params: Mapping[str, Any]) -> Op:
        """The operation with these settings; `ConfigError` names every unknown key and wrong type, and a column that
        it would read twice.
        """
        where, further = f"settings of {cls.name}", f"quiver ops {cls.name}"
        op = parse(cls, params, where=where, next=further)
        try:
            _ = op.takes
        except ConfigError as fault:
            fault.where, fault.next = where, further
            raise
        return op


@dataclass(frozen=True, kw_only=True)
class Read(Op):
    """None to many: rows from outside. `takes` is empty; `gives()` has no inputs."""

    loses_rows: ClassVar[bool] = True

    @property
    def takes(self) -> Schema:
        """Nothing: a reader has no input rows."""
        return NOTHING

    @property
    def origin(self) -> str:
        """The path or address by which its result is called; empty where it reads several files, or has no place."""
        return ""

    @abstractmethod
    def read(self, ctx: Context) -> Iterator[Result]:
        """Tables of any size in a fixed order."""


@dataclass(frozen=True, kw_only=True)
class Label(Op):
    """Each row stays and gains (or replaces) the columns that `adds` declares."""

    makes: ClassVar[tuple[Mapping[str, Any], ...]] = ({},)
    loses_rows: ClassVar[bool] = True

    @property
    @abstractmethod
    def adds(self) -> tuple[Column, ...]:
        """The columns that `label` computes; one that rows have already is replaced."""

    def gives(self, *inputs: Schema) -> Schema:
        """The input's columns and the added ones."""
        return inputs[0].adding(*self.adds)

    @abstractmethod
    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, pa.Array | pa.ChunkedArray] | LabelResult:
        """The added columns, each as long as `rows`; `LabelResult` where some rows cannot be labelled and must go."""

    def counts(self, rows: pa.Table, ctx: Context) -> Mapping[str, float]:
        """Counts over the rows that come out; the manifest has their sums over all rows (`stats`, `counts`)."""
        return {}


@dataclass(frozen=True)
class LabelResult:
    """Added columns for all rows, and which rows hold (`kept.keep`); values of rows that go are not looked at."""

    columns: Mapping[str, pa.Array | pa.ChunkedArray]
    kept: FilterDecision


@dataclass(frozen=True, kw_only=True)
class Keep(Op):
    """Each row stays or goes, with a reason."""

    def gives(self, *inputs: Schema) -> Schema:
        return inputs[0]

    @abstractmethod
    def keep(self, rows: pa.Table, ctx: Context) -> FilterDecision:
        """The decision over each row."""


@dataclass(frozen=True, kw_only=True)
class Expand(Op):
    """Each row becomes any number of rows (none, too), a chunk of rows at a time."""

    loses_rows: ClassVar[bool] = True

    rows_per_chunk: int = 64
    """Rows worked on together; part of the identity, because a model's arithmetic may depend on its batch."""

    @abstractmethod
    def expand(self, rows: pa.Table, ctx: Context) -> Result:
        """All rows that come of `rows`, in the order of `rows`."""


@dataclass(frozen=True, kw_only=True)
class Gather(Op):
    """Rows with the same key are seen together, a whole shard at a time (all samples of a prompt share a shard)."""

    @abstractmethod
    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        """What comes of one shard."""


@dataclass(frozen=True, kw_only=True)
class GatherAll(Op):
    """The same shape over everything: what truly needs an exchange between shards (dedup, shuffle, split)."""

    @abstractmethod
    def gather_all(self, dataset: Dataset, ctx: Context) -> Iterator[Result]:
        """What comes of the whole dataset, in a fixed order, in bounded memory."""


@dataclass(frozen=True, kw_only=True)
class Blend(Op):
    """One dataset of several, read as a stream, which is cut into shards as it comes."""

    @abstractmethod
    def blend(self, inputs: Sequence[Dataset], ctx: Context) -> Iterator[Result]:
        """The rows that come out, in a fixed order."""
