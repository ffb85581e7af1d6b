"""What recipes share that stand on a constitution: prompts, answers of a model by it, helpfulness blended in."""

from __future__ import annotations

from typing import ClassVar

import luigi

from datakit.constitution.principles import Principle, read_constitution
from pipelines.cli.parameters import OptionalWhole
from pipelines.commands.one_shot import OneShot, OneShotSetup
from pipelines.commands.templated import Answering
from pipelines.graph.limits import longest_answer, longest_row
from pipelines.graph.node import Node, rows_of
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import rows_at, stem, unread
from pipelines.stages.ask import Reading
from pipelines.stages.iteration import joined_rows
from schemas.errors import ConfigError, printable
from schemas.settings import parse


class Constitutional(Answering, OneShot):
    """A recipe whose rows are made of prompts, by principles."""

    usual_format = "prompts"
    other_formats: ClassVar[tuple[str, ...]] = ("prompt_messages", "hh", "completions")
    reads: ClassVar[tuple[tuple[str, ...], ...]] = (("prompt_id", "messages"),)
    helpful_formats: ClassVar[tuple[str, ...]]
    """Formats of rows that may be blended in, the columns of which are `helpful_columns`."""
    helpful_columns: ClassVar[tuple[str, ...]]

    data = luigi.Parameter(default="", description="file or dataset (name or folder) of prompts, such as invite harm")
    constitution = luigi.Parameter(
        default="harmless", description="file of principles (NeMo-Aligner's JSON, numbered lines); or the one by name"
    )
    helpful = luigi.Parameter(
        default="",
        description="file or dataset (name or folder) of rows for helpfulness that are learnt too; empty: none",
    )
    max_new_tokens = OptionalWhole(
        description="tokens of an answer, at most; empty: a quarter of what a row may have, 256 at most"
    )

    def principles(self) -> tuple[Principle, ...]:
        """Those of `constitution`; `ConfigError` for a file that holds none."""
        return tuple(parse(Principle, one) for one in read_constitution(self.constitution))

    def answer_tokens(self, reading: Reading) -> int:
        """Tokens of an answer, in rows as long as `reading` allows; `ConfigError` where a question has no room."""
        assert reading.max_length is not None
        usual = max(1, min(256, reading.max_length // 4))
        return longest_answer(self.max_new_tokens, usual, reading.max_length, "--max-new-tokens")

    def leaving_room(self, given: OneShotSetup, model: Node, tokens: int) -> Reading:
        """How `model` reads questions that are to leave room for answers of so many `tokens`: as long as rows may be,
        or as another model than the one that is trained reads.
        """
        longest = given.reading.max_length if model is given.model else longest_row(None, [model], "--max-length")
        assert longest is not None
        tokens = longest_answer(tokens, tokens, longest, "--max-new-tokens")
        return Reading(rendering=given.reading.rendering, max_length=longest - tokens)

    def blended(self, plan: Plan, label: str, made: Node) -> Node:
        """The rows `made`, named `constitutional`, and those of `helpful`."""
        if not self.helpful:
            return made
        helpful = rows_at(plan, self.helpful, self.helpful_formats, f"imported/{stem(self.helpful)}.helpful")
        there = rows_of(helpful).names
        if unread(helpful) is None or not {*self.helpful_columns} <= {*there}:
            raise ConfigError(
                "wrong-rows", f"--helpful {printable(self.helpful, 200)} holds no rows to blend in",
                expected=f"a file in {', '.join(self.helpful_formats)}, or rows with {', '.join(self.helpful_columns)}",
                found=", ".join(there), kept="nothing was started", next="quiver formats",
            )  # fmt: skip
        parts = {"constitutional": made, "helpful": helpful}
        return joined_rows(plan, f"{label}/train.blended", parts, self.settled_seed)
