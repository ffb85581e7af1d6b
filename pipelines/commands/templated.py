"""The settings of templating, as every command that templates has them: read once, carried as one `Rendering`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import luigi
from luigi.freezing import recursively_unfreeze

from datakit.clients import Sampling
from datakit.op import Op
from datakit.template import Rendering
from pipelines.cli import invocation
from pipelines.cli.parameters import ListParameter, Number, ObjectParameter, OptionalWhole, Whole
from pipelines.cli.unread import refuse_unread
from pipelines.graph.limits import check_length, longest_answer
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.runtime import settings
from pipelines.stages.ask import Reading, ask, asked, is_readable, steps
from schemas.errors import ConfigError, printable

_ANSWER = 256
"""Tokens of an answer, where nobody says how many."""


class Templated:
    """Of a command that writes conversations as text."""

    template = luigi.Parameter(default="", description="chat template, by name or Jinja; empty: the tokenizer's own")
    template_options = ObjectParameter(
        default={}, description='variables that the template reads, as JSON: {"enable_thinking": false}'
    )
    date = luigi.Parameter(default="", description="date that the template writes, YYYY-MM-DD; empty: that of [quiver]")

    @property
    def own_rendering(self) -> Rendering:
        """What the command itself says; `ConfigError` for what cannot be."""
        options = recursively_unfreeze(dict(self.template_options))
        return Rendering(template=self.template or None, options=options, date=self.date or None)

    @property
    def rendering(self) -> Rendering:
        """What the command says and, besides, the configuration."""
        return self.own_rendering.over(settings.templating())

    def nothing_templated(self, why: str) -> None:
        """`ConfigError` if the command says how to template, where nothing is: `why`."""
        if self.own_rendering != Rendering(stop=self.own_rendering.stop):
            raise ConfigError(
                "bad-setting",
                f"--template, --template-options and --date have no use here: {why}",
                kept="nothing was started",
                next=invocation.without("--template", "--template-options", "--date"),
            )

    def asking(
        self,
        plan: Plan,
        label: str,
        op: Op,
        rows: Node,
        model: Node,
        *,
        seed: int = 0,
        tokenizer: Node | None = None,
        max_length: int | None = None,
    ) -> Node:
        """`rows` with what `model` answers for `op`; what it reads is made first, written as the command says; rows of
        more than `max_length` tokens go.
        """
        reading = Reading(rendering=self.rendering, tokenizer=tokenizer, max_length=max_length)
        if is_readable(op, rows, model) or not steps(op, rows, model, reading):
            self.nothing_templated(f"{op.name} reads the rows as they are")
            refuse_unread({"--max-length": max_length is not None}, f"{op.name} reads the rows as they are")
            return asked(plan, label, op, rows, model, seed=seed)
        return ask(plan, label, op, rows, model, reading=reading, seed=seed)

    def agreed(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """`params` of an operation that templates, and what else is set; `ConfigError` where command and `params`
        differ.
        """
        given = {name: value for name, value in self.own_rendering.settings.items() if value}
        for name, value in given.items():
            if params.get(name, value) != value:
                raise ConfigError(
                    "bad-setting",
                    f"{name} is given twice: {printable(value)} and, in --params, {printable(params[name])}",
                    kept="nothing was started",
                    next=invocation.without("--template-options" if name == "options" else f"--{name}"),
                )
        rest = {name: value for name, value in self.rendering.settings.items() if value}
        return {**rest, **given, **params}


def is_templated(kind: type[Op]) -> bool:
    """Whether an operation has the settings of a `Rendering`; `template` alone may be its own, of another meaning."""
    return {*Rendering().settings} <= {one.name for one in fields(kind)}


class Bounded:
    """Of a command whose model reads rows that the command tokenizes."""

    max_length = OptionalWhole(
        description="tokens of question and answer together; longer rows go. Empty: none goes, and one that the model "
        "cannot read is an error"
    )

    def longest(self, models: Sequence[Node | None]) -> int | None:
        """Tokens of the longest row; `ConfigError` where `models` do not reach."""
        check_length(self.max_length, models, "--max-length")
        return self.max_length


class BoundedAnswers(Bounded):
    """Of such a command whose model answers."""

    max_new_tokens = OptionalWhole(
        description=f"tokens of an answer, at most; empty: {_ANSWER}, or half of --max-length, or of what the model "
        "reads, where that is less"
    )

    def bounds(self, models: Sequence[Node | None]) -> tuple[int | None, int]:
        """Tokens of the longest row and of the longest answer; `ConfigError` where `models` do not reach, or answers
        leave no room for a question.
        """
        longest = self.longest(models)
        known = [most for model in models if model is not None and (most := model.max_sequence_length) is not None]
        room = longest or min(known, default=None)
        return longest, longest_answer(self.max_new_tokens, _ANSWER, room, "--max-new-tokens")


class Answering(Templated):
    """Of a command that has a policy answer."""

    stop = ListParameter(default=(), description="texts that end an answer, as a JSON list")

    @property
    def own_rendering(self) -> Rendering:
        """What the command itself says, texts that end an answer too."""
        return Rendering(stop=tuple(map(str, recursively_unfreeze(self.stop)))).over(super().own_rendering)


class Sampled(Answering):
    """Of a command that draws answers as its own settings say."""

    samples_per_prompt = Whole(default=1, description="answers to each prompt")
    temperature = Number(default=1.0, description="of sampling")
    top_k = Whole(least=0, default=0, description="likeliest tokens to choose from; 0: all")
    top_p = Number(least=0, most=1, default=1.0, description="probability mass to choose from")

    def sampling(self, max_new_tokens: int, stop: tuple[str, ...], *, greedy: bool = False) -> Sampling:
        """How answers of at most `max_new_tokens` are drawn; texts of `stop` end one."""
        return Sampling(
            samples_per_prompt=self.samples_per_prompt,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            max_new_tokens=max_new_tokens,
            stop=stop,
            greedy=greedy,
        )
