"""A graph small enough to run hundreds of times: numbers, doubled, kept above a threshold, counted in steps."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import luigi
import pyarrow as pa
import pyarrow.compute as pc

from datakit.io import Jsonl
from datakit.op import Context, FilterDecision, Keep, Label, Read, Result
from datakit.tokenize import Train as TrainTokenizer
from pipelines.commands.command import Command
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.stages.iteration import tokenized
from schemas import Column, Schema
from trainers.config import training_of

NUMBERS = Schema(
    "numbers", 1, (Column("n", pa.int64(), "a number"), Column("prompt_id", pa.string(), "its name")), ("n",)
)


@dataclass(frozen=True, kw_only=True)
class Count(Read):
    """The numbers below `rows`."""

    name: ClassVar[str] = "toy.count"
    rows: int

    def gives(self, *inputs: Schema) -> Schema:
        return NUMBERS

    def read(self, ctx: Context) -> Iterator[Result]:
        for start in range(0, self.rows, 100):
            numbers = range(start, min(start + 100, self.rows))
            yield Result(pa.table({"n": pa.array(numbers, pa.int64()), "prompt_id": [f"p{n}" for n in numbers]}))


@dataclass(frozen=True, kw_only=True)
class Draw(Label):
    """A random number in 0..1 beside every number; `seconds` of waiting per chunk, `fail` raises."""

    name: ClassVar[str] = "toy.draw"
    paid: ClassVar[bool] = True
    column: str = "reward"
    seconds: float = 0.0
    fail: bool = False
    rows_per_chunk: int = 100

    @property
    def takes(self) -> Schema:
        return NUMBERS.selecting("n")

    @property
    def adds(self) -> tuple[Column, ...]:
        return (Column(self.column, pa.float64(), "random", finite=True),)

    def label(self, rows: pa.Table, ctx: Context) -> Mapping[str, pa.Array]:
        time.sleep(self.seconds)
        if self.fail:
            raise ValueError("the toy broke")
        if "TOY_CALLS" in os.environ:
            with open(os.environ["TOY_CALLS"], "a") as file:
                file.write(f"{self.column} {rows['n'][0]}\n")
        return {self.column: pa.array([float(ctx.rng(self.column, n).random()) for n in rows["n"].to_pylist()])}


@dataclass(frozen=True, kw_only=True)
class Above(Keep):
    """Rows above a threshold."""

    name: ClassVar[str] = "toy.above"
    minimum: float

    @property
    def takes(self) -> Schema:
        return NUMBERS.adding(Column("reward", pa.float64(), "random", finite=True))

    def keep(self, rows: pa.Table, ctx: Context) -> FilterDecision:
        return FilterDecision(pc.greater(rows["reward"], self.minimum), "below", rows["reward"], f"> {self.minimum}")


class Toy(Command):
    """Numbers, drawn, kept, drawn again."""

    rows = luigi.IntParameter(default=300)
    minimum = luigi.FloatParameter(default=0.5)
    seconds = luigi.FloatParameter(default=0.0)
    fail = luigi.BoolParameter(default=False)

    def build(self, plan: Plan) -> Sequence[Node]:
        counted = plan.table("toy/counted", Count(rows=self.rows), rows_per_shard=100)
        drawn = plan.table("toy/drawn", Draw(seconds=self.seconds, fail=self.fail), counted, seed=7)
        kept = plan.table("toy/kept", Above(minimum=self.minimum), drawn)
        return [plan.table("toy/again", Draw(column="again"), kept, seed=7)]


class Pair(Command):
    """Two chains that differ only at their start."""

    def build(self, plan: Plan) -> Sequence[Node]:
        ends = []
        for rows in (10, 20):
            start = plan.table("pair/start", Count(rows=rows))
            drawn = plan.table("pair/drawn", Draw(), start)
            ends.append(plan.table("pair/end", Above(minimum=0.0), drawn))
        return ends


class Base(Command):
    """What other stages start from: rows of rows.jsonl, two tokenizers, tokens by each, and a policy of one step."""

    def build(self, plan: Plan) -> Sequence[Node]:
        rows = plan.table("base/rows", Jsonl(files=("rows.jsonl",), format="rewarded").pinned(), rows_per_shard=2)
        trained = plan.table("base/tokenizer", TrainTokenizer(vocab_size=300), rows)
        other = plan.table("base/other", TrainTokenizer(vocab_size=266), rows)
        tokens, others = (
            tokenized(plan, f"base/{name}", one, rows, 64) for name, one in (("a", trained), ("b", other))
        )
        shape = {"num_layers": 1, "hidden_size": 8, "ffn_hidden_size": 8, "num_attention_heads": 2}
        shape |= {"num_query_groups": 2, "max_sequence_length": 64}
        learning = {"max_steps": 1, "global_batch_size": 2, "optim": {"lr": 1e-3}}
        training = training_of("sft", learning, seed=0, model=shape)
        return [plan.model("base/policy", training, data=tokens, tokenizer=trained), others]
