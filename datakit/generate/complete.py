"""generate.complete: answers of a policy to templated prompts, token by token as they were drawn."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from datakit.clients.protocols import ANSWERS, Generator, no_client
from datakit.clients.replies import answers_of, checked
from datakit.clients.sampling import Sampling
from datakit.columns.rejections import set_aside
from datakit.columns.usage import taken, usage_notes
from datakit.op import BYTES_PER_TOKEN, Capability, Context, Expand, Result, Size
from schemas import TOKEN_COLUMNS, Column, Schema
from schemas.canonical import DEFAULT_UNNAMED, json_digest
from schemas.dataset import Dataset
from schemas.end_tokens import TurnEnd
from schemas.errors import printable
from schemas.manifest import Manifest
from schemas.rows.samples import BESIDE, answered_with

_PROMPT = ("prompt", "prompt_ids")


@dataclass(frozen=True, kw_only=True)
class Complete(Expand):
    """Each prompt becomes `sampling.samples_per_prompt` samples; one that fails is a rejected row.

    An answer ends at an end token of the model, at `sampling.stop`, and where the template that wrote the prompts ends
    an assistant's turn. The draw of a prompt is a function of the run's seed and its `prompt_id`, so it depends neither
    on its neighbours nor on the order of work. `sample_id` differs between policies and between sampling settings;
    `(prompt_id, sample_index)` pairs their answers. Rejected rows carry the sample index as value and the generator's
    words as threshold. What the generator reads (tokens, templated text, messages) is its resource's `takes`.
    """

    name: ClassVar[str] = "generate.complete"
    version: ClassVar[int] = 4
    needs: ClassVar[tuple[str, ...]] = ("generator",)
    paid: ClassVar[bool] = True

    sampling: Sampling = field(default_factory=Sampling)
    answered_with: tuple[str, ...] = field(default=TOKEN_COLUMNS, metadata=DEFAULT_UNNAMED)
    """What the generator gives of an answer besides its text: of `response_ids` and `logprobs` those that are not among
    them may be null, and `reasoning` and the columns of what a request took are there where they are."""

    @property
    def takes(self) -> Schema:
        """The name of each prompt: what is read besides, the generator says."""
        return Schema("prompts", 1, (Column("prompt_id", pa.string(), "the question"),), key=("prompt_id",))

    @property
    def asks(self) -> frozenset[Capability]:
        """A draw that is cut needs a generator that can."""
        return frozenset({"top_k"} if self.sampling.top_k else ())

    def gives(self, *inputs: Schema) -> Schema:
        """The prompt's columns and those of its sample; text and tokens of a prompt where the rows have them."""
        version, columns = answered_with(*self.answered_with)
        added = [column for column in columns if column.name not in _PROMPT or column.name in inputs[0]]
        return inputs[0].adding(*added).renamed("samples", version=version, key=("sample_id",))

    def with_outputs(self, outputs: Mapping[str, tuple[str, ...]]) -> Complete:
        """A generator that says what it gives of an answer says it for all of them."""
        given = outputs.get("generator", ())
        known = tuple(name for name in (*TOKEN_COLUMNS, *(column.name for column in BESIDE)) if name in given)
        return replace(self, answered_with=known) if given else self

    @property
    def answer_tokens(self) -> int:
        return self.sampling.max_new_tokens

    def grown(self, given: Size) -> Size:
        drawn = given.times(self.sampling.samples_per_prompt)
        return Size(drawn.rows, drawn.bytes + drawn.rows * BYTES_PER_TOKEN * self.answer_tokens)

    def prepare(self, dataset: Dataset) -> Mapping[str, Any]:
        """How the prompts' template ends an answer."""
        return TurnEnd.of(dataset.facts).facts

    def expand(self, rows: pa.Table, ctx: Context) -> Result:
        """Ask, check the reply, join it to the prompts by row number."""
        seeds = np.array([seed_of(ctx.seed, name) for name in rows["prompt_id"].to_pylist()], np.uint64)
        answers = self.asked(rows, self.ending(ctx), seeds, ctx)
        good, bad = (answers.filter(side(answers["error"])) for side in (pc.is_null, pc.is_valid))
        tokens = pc.sum(pc.list_value_length(good["response_ids"])).as_py() or 0
        samples = _joined(rows, good, self.drawn_by(self.ending(ctx), ctx), self.answered_with)
        failed = rows.take(bad["prompt_row"])
        index = bad["sample_index"].cast(pa.float64())
        rejected = set_aside(failed, "no-answer", index, words_of(bad["error"].to_pylist()))
        return Result(samples, rejected, {"response_tokens": tokens, **taken(answers)})

    def notes(self, made: Manifest) -> tuple[str, ...]:
        return usage_notes(made)

    def ending(self, ctx: Context) -> Sampling:
        """How answers are drawn, with all texts that end one."""
        return replace(self.sampling, stop=tuple(dict.fromkeys((*self.sampling.stop, *TurnEnd.of(ctx.prepared).stop))))

    def asked(self, rows: pa.Table, sampling: Sampling, seeds: npt.NDArray[np.uint64], ctx: Context) -> pa.Table:
        """The generator's answers to `rows`, each whole or with an `error`."""
        generator = ctx.resources["generator"]
        if not isinstance(generator, Generator):
            raise no_client(generator, Generator)
        replies = answers_of(generator, rows, sampling, seeds)
        return checked(replies, rows.num_rows, sampling.samples_per_prompt, self.answered_with)

    def drawn_by(self, sampling: Sampling, ctx: Context) -> str:
        """What tells samples apart that were drawn otherwise."""
        return draw_id(ctx.keys["generator"], sampling, ctx.seed)


def seed_of(seed: int, *names: str) -> int:
    """64 bits of SHA-256 over the run's seed and what is drawn."""
    return int.from_bytes(hashlib.sha256("\x1f".join((str(seed), *names)).encode()).digest()[:8], "big")


def draw_id(generator: str, sampling: Sampling, seed: int) -> str:
    """SHA-256 in hex over what draws samples: the generator's key, sampling with all end texts, the run's seed."""
    return json_digest([generator, sampling, seed])


def sample_id(prompt_id: str, drawn_by: str, index: int) -> str:
    """The id of a prompt's sample: 128 bits of SHA-256 over prompt, `draw_id` and sample index, in hex."""
    return hashlib.sha256(f"sample\x1f{prompt_id}\x1f{drawn_by}\x1f{index}".encode()).hexdigest()[:32]


def _joined(rows: pa.Table, answers: pa.Table, drawn_by: str, given: tuple[str, ...]) -> pa.Table:
    table = rows.take(answers["prompt_row"])
    pairs = zip(table["prompt_id"].to_pylist(), answers["sample_index"].to_pylist(), strict=True)
    beside = [column.name for column in BESIDE if column.name in given]
    new = {*ANSWERS.names, *beside, "sample_id"}
    table = table.drop_columns([name for name in table.column_names if name in new])
    ids = pa.array([sample_id(name, drawn_by, index) for name, index in pairs], pa.string())
    table = table.append_column("sample_id", ids)
    for name in ("sample_index", "response", "response_ids", "logprobs", "finish_reason", *beside):
        table = table.append_column(name, answers[name])
    return table


def words_of(errors: Sequence[str]) -> pa.Array:
    """What a rejected row was held against: the generator's words, as a person can read them."""
    return pa.array([printable(text, 200) for text in errors], pa.string())
