"""Stand-ins for models, operations that misbehave, and the examples that conformance runs on.

Everything here can be imported by a worker process.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datakit.clients import ANSWERS, TOKENIZED_PROMPTS, Sampling
from datakit.op import NOTHING, Context, Expand, FilterDecision, Gather, Keep, Label, Op, Read, Result
from datakit.run.resource import Resource
from schemas import PIECES, PROMPTS, REWARD, SAMPLES, TOKENS, Column, Schema
from schemas.dataset import Attempt

BOS, EOS, END, USER, BOT, CALL = ADDED = ("<bos>", "<eos>", "<end>", "<user>", "<bot>", "<call>")
"""The control tokens of `letters`."""


@dataclass(frozen=True)
class Example:
    """An operation, the tables it works on (by default its `takes`' own example) and its resources.

    A test file `tests/datakit/<family>/test_<op>.py` tells the conformance suite of examples in `EXAMPLES`.
    """

    op: Op
    tables: tuple[pa.Table, ...] | None = None
    resources: Mapping[str, Resource] = field(default_factory=dict)

    def inputs(self) -> tuple[pa.Table, ...]:
        """The tables to work on."""
        if self.tables is not None:
            return self.tables
        takes = self.op.takes if self.op.takes.columns else PROMPTS
        return () if isinstance(self.op, Read) else (takes.example(12),)


class EchoGenerator:
    """Answers with the prompt's tokens turned around by the seed, and writes down what it was asked."""

    def __init__(self, log: str = "", broken: tuple[int, ...] = (), dies_at: int = -1) -> None:
        self.log, self.broken, self.dies_at = log, broken, dies_at

    def generate(self, rows: pa.Table, sampling: Sampling, seeds: np.ndarray) -> pa.Table:
        made = []
        for row, (ids, seed) in enumerate(zip(rows["prompt_ids"].to_pylist(), seeds.tolist(), strict=True)):
            if ids[0] == self.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if ids[0] in self.broken:
                raise RuntimeError(f"cannot answer {ids[0]}")
            if self.log:
                with Path(self.log).open("a") as file:
                    file.write(f"{ids[0]}\n")
            for index in range(sampling.samples_per_prompt):
                drawn = [int((token + seed + index) % 97) for token in ids]
                logprobs = [-float(token) / 97 for token in drawn]
                made.append((row, index, drawn, " ".join(map(str, drawn)), logprobs, "stop"))
        columns = list(zip(*reversed(made), strict=True)) or [[]] * 6
        kept = ANSWERS.dropping("error")
        return pa.Table.from_arrays(
            [pa.array(v, c.type) for v, c in zip(columns, kept.columns, strict=True)], schema=kept.arrow
        )


class LengthScorer:
    """Scores an answer by its length; answers that are a key of `odd` get that value."""

    takes = Schema("answers", 1, (Column("response", pa.string(), "the answer"),))

    def __init__(self, odd: Mapping[str, float | None] | None = None, log: str = "") -> None:
        self.odd, self.log = dict(odd or {}), log

    def score(self, rows: pa.Table) -> dict[str, pa.Array]:
        if self.log:
            with Path(self.log).open("a") as file:
                file.write("".join(f"{text}\n" for text in rows["response"].to_pylist()))
        numbers = [self.odd.get(text, float(len(text))) for text in rows["response"].to_pylist()]
        return {"reward": pa.array(numbers, pa.float64())}


class DeviceScorer:
    """Scores every answer with the number of the device that its process was given before it was opened."""

    takes = LengthScorer.takes

    def __init__(self) -> None:
        self.device = float(os.environ.get("TOY_DEVICE", "nan"))

    def score(self, rows: pa.Table) -> dict[str, pa.Array]:
        time.sleep(0.2)
        return {"reward": pa.array([self.device] * rows.num_rows, pa.float64())}


class CountingModel:
    """A token model that says of a token its own id over 100, and `odd` of that id."""

    def __init__(self, odd: Mapping[int, float] | None = None) -> None:
        self.odd = dict(odd or {})

    def logprobs(self, rows: Sequence[np.ndarray]) -> pa.Array:
        logprobs = [[0.0, *(self.odd.get(i, -i / 100) for i in row[1:].tolist())] for row in rows]
        return pa.array(logprobs, pa.list_(pa.float32()))

    entropies = values = logprobs

    def top_k(self, rows: Sequence[np.ndarray], k: int) -> tuple[pa.Array, pa.Array]:
        ids = [[[0] * k, *([i + n for n in range(k)] for i in row[1:].tolist())] for row in rows]
        logprobs = [[[0.0] * k, *([-float(n) for n in range(k)] for _ in row[1:])] for row in rows]
        return pa.array(ids, pa.list_(pa.list_(pa.int32()))), pa.array(logprobs, pa.list_(pa.list_(pa.float32())))

    def logprobs_at(self, rows: Sequence[np.ndarray], ids: Sequence[np.ndarray]) -> pa.Array:
        """Of an id minus itself over 10, whatever the token."""
        logprobs = [(-at / 10).tolist() for at in ids]
        return pa.array(logprobs, pa.list_(pa.list_(pa.float32())))


def token_model(**settings: object) -> dict[str, Resource]:
    """`CountingModel` as the resources of `apply`."""
    return {"model": Resource("counting", functools.partial(CountingModel, **settings))}


def generator(**settings: object) -> dict[str, Resource]:
    """`EchoGenerator` as the resources of `apply`."""
    return {"generator": Resource("echo", functools.partial(EchoGenerator, **settings), TOKENIZED_PROMPTS)}


def scorer(**settings: object) -> dict[str, Resource]:
    """`LengthScorer` as the resources of `apply`."""
    return {"scorer": Resource("length", functools.partial(LengthScorer, **settings), LengthScorer.takes)}


TEMPLATED = PROMPTS.adding(*(SAMPLES[name] for name in ("prompt", "prompt_ids")))
"""What generate.complete takes, and a prompt's other columns."""


def prompts(rows: int) -> pa.Table:
    """Templated, tokenized prompts; the first token of prompt i is i."""
    table = PROMPTS.example(rows)
    table = table.append_column("prompt", pa.array([f"user: question {i}\n" for i in range(rows)], pa.string()))
    ids = pa.array([[i, 7, 3][: 1 + i % 3] for i in range(rows)], pa.list_(pa.int32()))
    return TEMPLATED.conform(table.append_column("prompt_ids", ids))


def responses(*texts: str) -> pa.Table:
    """Rows with an id and these responses."""
    return RESPONSES.conform(pa.table({"sample_id": [f"s{i}" for i in range(len(texts))], "response": list(texts)}))


RESPONSES = SAMPLES.selecting("sample_id", "response").renamed("responses")


@dataclass(frozen=True, kw_only=True)
class Fails(Label):
    """Raises at the row with that id."""

    name: ClassVar[str] = "test.fails"
    at: str

    @property
    def takes(self) -> Schema:
        return PROMPTS.selecting("prompt_id")

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column("one", pa.int64(), "one"),)

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        if self.at in rows["prompt_id"].to_pylist():
            raise KeyError(self.at)
        return {"one": pa.array([1] * rows.num_rows)}


@dataclass(frozen=True, kw_only=True)
class Dies(Fails):
    """Is killed at the row with that id; sleeps before, where `seconds` says so."""

    name: ClassVar[str] = "test.dies"
    seconds: float = 0.0
    marker: str = ""

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        if self.marker:
            (Path(self.marker) / str(os.getpid())).touch()
        time.sleep(self.seconds)
        if self.at in rows["prompt_id"].to_pylist():
            os.kill(os.getpid(), signal.SIGKILL)
        return {"one": pa.array([1] * rows.num_rows)}


@dataclass(frozen=True, kw_only=True)
class Lies(Label):
    """Promises a finite number and gives what it is set to."""

    name: ClassVar[str] = "test.lies"
    gives_what: str = "nan"

    @property
    def takes(self) -> Schema:
        return NOTHING

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column("number", pa.float64(), "a number", finite=True),)

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        numbers = [float(i) for i in range(rows.num_rows)]
        if self.gives_what == "short":
            return {"number": pa.array(numbers[1:])}
        if self.gives_what == "other":
            return {"numbers": pa.array(numbers)}
        return {"number": pa.array([{"nan": float("nan"), "null": None}[self.gives_what], *numbers[1:]], pa.float64())}


@dataclass(frozen=True, kw_only=True)
class Short(Keep):
    """Keeps the prompts whose source is at most that long."""

    name: ClassVar[str] = "test.short"
    limit: int = 8

    @property
    def takes(self) -> Schema:
        return PROMPTS.selecting("prompt_id", "source")

    def keep(self, rows: pa.Table, ctx: Context) -> FilterDecision:
        lengths = pc.utf8_length(pc.fill_null(rows["source"], ""))
        return FilterDecision(
            pc.less_equal(lengths, self.limit), "too-long", lengths.cast(pa.float64()), f"<= {self.limit}"
        )


@dataclass(frozen=True, kw_only=True)
class Twice(Expand):
    """Every row twice, under a new id."""

    name: ClassVar[str] = "test.twice"
    rows_per_chunk: int = 3

    @property
    def takes(self) -> Schema:
        return PROMPTS.selecting("prompt_id")

    def gives(self, *inputs: Schema) -> Schema:
        return inputs[0]

    def expand(self, rows: pa.Table, ctx: Context) -> Result:
        both = rows.take(np.repeat(np.arange(rows.num_rows), 2))
        ids = [f"{name}/{i % 2}" for i, name in enumerate(both["prompt_id"].to_pylist())]
        return Result(both.set_column(0, "prompt_id", pa.array(ids, pa.string())), counts={"doubled": rows.num_rows})


@dataclass(frozen=True, kw_only=True)
class FirstOfShard(Gather):
    """The first row of each shard."""

    name: ClassVar[str] = "test.first"

    @property
    def takes(self) -> Schema:
        return NOTHING

    def gives(self, *inputs: Schema) -> Schema:
        return inputs[0]

    def gather(self, rows: pa.Table, ctx: Context) -> Result:
        return Result(rows.slice(0, 1))


@dataclass(frozen=True, kw_only=True)
class Count(Read):
    """Prompts `p0` ... in tables of `step`; every tenth is rejected; `each` rows share a prompt id."""

    name: ClassVar[str] = "test.count"
    rows: int = 25
    step: int = 4
    each: int = 1
    fails_after: int = -1

    def gives(self, *inputs: Schema) -> Schema:
        return Schema("counted", 1, (Column("prompt_id", pa.string(), "id"), Column("n", pa.int64(), "number")))

    def read(self, ctx: Context) -> Iterator[Result]:
        for start in range(0, self.rows, self.step):
            if 0 <= self.fails_after <= start:
                raise OSError("the cable was pulled")
            numbers = np.arange(start, min(start + self.step, self.rows))
            table = pa.table({"prompt_id": [f"p{n // self.each}" for n in numbers], "n": numbers})
            good = pc.not_equal(pc.bit_wise_and(table["n"], 7), 7)
            bad = table.filter(pc.invert(good))
            yield Result(
                table.filter(good),
                bad.append_column("reason", pa.array(["seventh"] * bad.num_rows, pa.string())),
            )


def scored(count: int = 4, samples: int = 3) -> pa.Table:
    """Samples of a few prompts with rewards, of which some are equal."""
    schema = SAMPLES.adding(REWARD)
    table = schema.example(count * samples)
    places = range(table.num_rows)
    changed = {
        "prompt_id": pa.array([f"prompt {i // samples}" for i in places]),
        "sample_index": pa.array([i % samples for i in places], pa.int32()),
        "reward": pa.array([float(i * 7 % 5) for i in places]),
    }
    for name, values in changed.items():
        table = table.set_column(schema.names.index(name), name, values)
    return schema.conform(table)


def small_tokenizer() -> object:
    """A byte-level tokenizer without merges, made from nothing."""
    from datakit.apply import apply
    from datakit.tokenize import Train
    from datakit.tokenizers.tokenizer import Tokenizer

    schema = Schema("texts", 1, (Column("text", pa.string(), "to learn from"),))
    with tempfile.TemporaryDirectory() as folder:
        with Attempt.begin(f"{folder}/texts", schema) as attempt:
            writer = attempt.shard(0)
            writer.write(schema.conform(pa.table({"text": ["a b"]})))
            texts = attempt.commit([writer.finish()])
        return Tokenizer.of_dataset(apply(Train(columns=("text",), vocab_size=263), texts, f"{folder}/vocabulary"))


def letters(template: str | None = None, control: Sequence[str] = ADDED) -> object:
    """A tokenizer of letters and control tokens; the turn end of `ADDED` is a plain added token."""
    from datakit.tokenizers.tokenizer import Tokenizer

    ascii_ = [chr(number) for number in range(32, 127)] + ["\n"]
    vocab = {token: number for number, token in enumerate((*control, *ascii_))}
    added = [
        {"id": vocab[token], "content": token, "special": token != END, "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": False}
        for token in control
    ]
    split = {"type": "Split", "pattern": {"Regex": "[\\s\\S]"}, "behavior": "Isolated", "invert": False}
    model = {"type": "WordLevel", "vocab": vocab, "unk_token": " "}
    text = json.dumps(
        {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None}
        | {"pre_tokenizer": split, "post_processor": None, "decoder": {"type": "Fuse"}, "model": model}
    )
    return Tokenizer("letters", text, template, BOS, EOS)


def tokenizer() -> dict[str, Resource]:
    """`small_tokenizer` as the resources of `apply`."""
    return {"tokenizer": Resource("small", small_tokenizer)}


def pieces(rows: int) -> pa.Table:
    """Templated rows: a question that is not learnt and an answer that is."""
    parts = [
        [
            {"text": "<|user|>", "special": True, "trained": False},
            {"text": f"question {row}", "special": False, "trained": False},
            {"text": f"answer {row}", "special": False, "trained": True},
        ]
        for row in range(rows)
    ]
    schema = Schema("pieces", 1, (TOKENS["sample_id"], Column("pieces", PIECES, "templated text")), key=("sample_id",))
    return schema.conform(pa.table({"sample_id": [f"s{n}" for n in range(rows)], "pieces": pa.array(parts, PIECES)}))


def bare(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turns without the fields that are null."""
    return [{name: value for name, value in turn.items() if value is not None} for turn in turns]
