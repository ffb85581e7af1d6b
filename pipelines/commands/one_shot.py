"""One training from a model and a file, with a table at its end: what the recipes of that kind ask of the command line,
and what they stand on.

    --model  -> checkpoint ------------------------------------------> trained, read before and after
    --data   -> rows -> train     -> what the algorithm learns from ->/
                     -> held out  -> what it is judged by
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import luigi

from pipelines.cli import invocation
from pipelines.cli.learning import ByAlgorithm, Learns, MergedParameter
from pipelines.cli.parameters import Number, OptionalWhole
from pipelines.cli.references import model_parameter
from pipelines.cli.unread import refuse_unread
from pipelines.commands.files import ReadsFiles
from pipelines.commands.recipe import Recipe
from pipelines.commands.unread_file import reason_and_next
from pipelines.graph.backend import checkpoint_at
from pipelines.graph.limits import longest_row
from pipelines.graph.node import Node, rows_of
from pipelines.graph.other_rows import first_step
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import data_flags, few_keys, near, source_of, stem, unread
from pipelines.graph.results import Results
from pipelines.report import suggestions
from pipelines.setups.setup_config import held_apart
from pipelines.stages.ask import Reading
from schemas.errors import ConfigError, DataError, counted, printable
from trainers.registry import algorithm_of

_KEYS = ("messages", "prompt_id", "sample_id", "pair_id")
"""Columns whose equal values stay together when rows are held out: the first that there is. Of conversations it is
their first question, so that none that is judged by is learnt from.
"""


@dataclass(frozen=True, kw_only=True)
class OneShotSetup:
    """What one training stands on: the checkpoint it starts from, rows to learn from and to judge by (None: nothing is
    judged), and how models read them. Results lie below `label`.
    """

    label: str
    model: Node
    train: Node
    held_out: Node | None
    reading: Reading

    @property
    def parts(self) -> dict[str, Node]:
        """The kinds of rows that there are, by name."""
        return {"train": self.train, **({} if self.held_out is None else {"held-out": self.held_out})}

    @property
    def judged(self) -> Node:
        """The rows to judge by, of a recipe that cannot do without."""
        assert self.held_out is not None
        return self.held_out


def learning_over(**default: Any) -> Any:
    """The parameter of the training, with its defaults."""
    return MergedParameter(
        default={"epochs": 1, "global_batch_size": 32, **default},
        description="learning (trainers.config), over the defaults",
    )


class OneShot(ByAlgorithm, Learns, ReadsFiles, Recipe[Results]):
    """One training of `model` on `data`, judged on rows that it does not learn from."""

    made: ClassVar[str] = "policy"
    """The name of the checkpoint that it trains."""
    exported: ClassVar[str] = ""
    """The name of the checkpoint that is for other programs, where there is another than the one that it trains."""
    title: ClassVar[str]
    """The folder of its results below the root."""
    reads: ClassVar[tuple[tuple[str, ...], ...]]
    """Columns by which rows are known to be such: all of one entry."""
    needed: ClassVar[tuple[str, ...]] = ("model", "data")
    """Parameters that must be given."""
    asks_held_out: ClassVar[bool] = False
    """Whether its figures are made of held-out questions alone: there have to be some."""

    model = model_parameter("start")
    data = luigi.Parameter(default="", description="file or dataset (name or folder) to learn from")
    format = luigi.Parameter(
        default="", description="format of the files (datakit.formats.forms); empty: recognized by the first rows"
    )
    eval_data = luigi.Parameter(
        default="", description="file or dataset (name or folder) to judge by; empty: a share of --data"
    )
    eval_share = Number(
        default=0.05,
        least=0,
        most=1,
        description="share of --data that nothing is learnt from, by first question, at least one; 0: none is judged",
    )
    max_length = OptionalWhole(
        description="tokens of question and answer together; longer rows go; empty: what the model reads, 2048 at most"
    )

    given: OneShotSetup
    """What the graph stands on, once it is planned: its inputs may be gone when it is done."""

    @property
    def least_held_out(self) -> int:
        """Prompts that there are at least to judge by, and as many to learn from."""
        return 1

    def one_shot_setup(self, plan: Plan) -> OneShotSetup:
        """The model imported where it comes from outside, the rows imported and split; `ConfigError` for what is
        missing or cannot be.
        """
        missing = [f"--{name}" for name in self.needed if not getattr(self, name)]
        if missing:
            raise ConfigError(
                "missing-parameter",
                f"{self.task_family} needs {', '.join(missing)}",
                expected="a model (checkpoint, Hugging Face folder) and rows (file, dataset folder)",
                kept="nothing was started",
                next=invocation.completed(
                    " ".join(f"--{name} {'rows.jsonl' if name == 'data' else 'FOLDER'}" for name in self.needed)
                ),
            )
        model = checkpoint_at(plan, self.model, asked=True)
        label = f"{self.title}/{self.folder(stem(self.data))}"
        rows = self.rows(plan, self.data)
        if self.eval_data:
            share = bool(self.eval_share and invocation.value("--eval-share"))
            refuse_unread({"--eval-share": share}, "--eval-data has the rows to judge by", expected="one of both")
            train, held_out = rows, cast(Node | None, self.rows(plan, self.eval_data))
        else:
            train, held_out = self._apart(plan, f"{label}/rows", rows)
        reading = Reading(
            rendering=self.rendering,
            tokenizer=model,
            max_length=longest_row(self.max_length, [model], "--max-length"),
        )
        self.given = OneShotSetup(label=label, model=model, train=train, held_out=held_out, reading=reading)
        return self.given

    def go_on(self) -> None:
        """Where the results lie, and the commands that use what was trained."""
        super().go_on()
        trained = self.graph.checkpoints[self.made]
        if trained.manifest() is not None:
            commands = self.uses(self.given, trained)
            exported = self.graph.checkpoints.get(self.exported, trained)
            print(f"\n{suggestions.listed([*commands, suggestions.exported(exported)])}")

    def uses(self, given: OneShotSetup, trained: Node) -> Iterator[str]:
        """Commands that use `trained`: a policy answers held-out questions, or one that is written first."""
        questions = given.held_out
        if questions is not None and questions.manifest() and {"prompt_id", "messages"} <= {*rows_of(questions).names}:
            prompts = near(questions.url)
        elif "://" in trained.root:
            return
        else:
            prompts = near(f"{trained.root}/question.jsonl")
            yield f"""echo '{{"prompt": "What is 2 + 3?"}}' > {shlex.quote(prompts)}"""
        asked = ["--prompts", prompts, *suggestions.written_as(given.reading.rendering)]
        yield suggestions.command("Generate", "--model", near(trained.url), *asked, *self.bounds(given))

    def bounds(self, given: OneShotSetup, *, tokens: int = 128) -> list[str]:
        """The flags of an answer of `tokens` at most, and of rows as long as those that were learnt."""
        assert given.reading.max_length is not None
        longest = max(1, min(tokens, given.reading.max_length // 2))
        return ["--max-new-tokens", str(longest), "--max-length", str(given.reading.max_length)]

    def rows(self, plan: Plan, place: str) -> Node:
        """The dataset in the folder `place`, or what an import of the file makes; `ConfigError` for rows of a kind that
        nothing here is learnt from.
        """
        rows = super().rows(plan, place)
        schema = rows_of(rows)
        if unread(rows) is None:
            read: Any = getattr(rows, "op", None)
            why = reason_and_next(type(self), read, place)
            raise self._wrong(f"no format of {self.task_family} reads the first rows of {printable(place, 200)}", *why)
        if not any({*names} <= {*schema.names} for names in self.reads):
            what = f"{self.task_family} learns nothing from rows of {schema.name}"
            step = first_step(algorithm_of(self.algorithm), schema, data_flags(rows), self.model)
            raise self._wrong(what, ", ".join(schema.names), step or "quiver formats")
        return rows

    def _wrong(self, what: str, there: str, command: str = "quiver formats") -> ConfigError:
        columns = " or ".join(", ".join(names) for names in self.reads)
        formats = ", ".join((self.usual_format, *self.other_formats))
        return ConfigError(
            "wrong-rows",
            what,
            expected=f"a file in {formats}, a --format, or names of its keys as --columns; or rows with {columns}",
            found=printable(there, 300),
            kept="nothing was started",
            next=command,
        )

    def _apart(self, plan: Plan, label: str, rows: Node) -> tuple[Node, Node | None]:
        if self.eval_share == 0 and not self.asks_held_out:
            return rows, None
        key = next((name for name in _KEYS if name in rows_of(rows)), _KEYS[0])
        parts = held_apart(
            plan,
            f"{label}.",
            rows,
            self.eval_share,
            self.settled_seed,
            flag="--eval-share",
            key=key,
            least=self.least_held_out,
        )
        split: Any = parts[0]
        count = few_keys(rows, split.op)
        needed = self.least_held_out * len(parts)
        if count is not None and count < needed:
            raise DataError(
                "too-few-prompts",
                f"{source_of(rows)} has {counted(count, 'prompt')}: too few to learn from some and judge by others",
                expected=f"{needed} prompts or more, or rows to judge by of their own (--eval-data)",
                found=str(count),
                kept="nothing was started",
                next="--eval-data FILE" if self.asks_held_out else "--eval-share 0",
            )
        return parts


class OneShotOfAnswers(OneShot):
    """One training on answers to questions, or on whole conversations."""

    other_formats: ClassVar[tuple[str, ...]] = ("alpaca", "messages", "sharegpt", "chats", "dolly")
    reads: ClassVar[tuple[tuple[str, ...], ...]] = (
        ("messages", "response"),
        ("messages", "chat_id"),
        ("input_ids", "loss_mask"),
    )


class OneShotOfPairs(OneShot):
    """One training on pairs of a better and a worse answer."""

    usual_format = "preferences"
    other_formats: ClassVar[tuple[str, ...]] = (
        "preference_messages",
        "preference_chats",
        "sharegpt_preferences",
        "alpaca_preferences",
        "hh",
        "helpsteer_preferences",
    )
    reads: ClassVar[tuple[tuple[str, ...], ...]] = (("messages", "chosen", "rejected"),)
