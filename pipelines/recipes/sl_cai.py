"""Constitutional AI, supervised: a model criticises and rewrites its own answers by a constitution, and learns the
revisions.

    --data -> questions -> responses -> principle, by lot -> critiques -> revisions, once a round
           -> train    -> blended with --helpful -> template -> tokens, mask -> training -> policy
           -> held out ------------------------- -> template -> tokens, mask -> loss before, loss after -> table

Bai et al., "Constitutional AI" (2022, arXiv:2212.08073). Which principle a prompt meets is a function of the prompt and
the seed (`label.principle`); what a model is asked next is written by `template.turns`. The dialogue stays in columns
beside the `revision`, and what fails or is empty is set aside with its reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import luigi

from datakit.clients import Sampling
from datakit.constitution.few_shot import read_few_shot
from datakit.label import DrawPrinciple
from datakit.template import Line
from pipelines.cli.parameters import Number, Whole
from pipelines.cli.references import model_parameter
from pipelines.commands.constitutional import Constitutional
from pipelines.commands.one_shot import OneShotSetup
from pipelines.graph.backend import model_at
from pipelines.graph.node import Node
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import near
from pipelines.graph.results import Results
from pipelines.recipes.sft import Sft
from pipelines.report import suggestions
from pipelines.report.figures import Figure, FigureTable, metrics
from pipelines.stages.critique import Revised, Revising, changes, revised
from schemas.settings import parse

_COLUMNS = (
    Figure("round", meaning="of critique and revision"),
    Figure("revisions", ",.0f", meaning="that are learnt from"),
    Figure("changed", ".1%", meaning="of them, those that differ from their draft"),
    Figure("draft characters", ",.0f", meaning="mean length before"),
    Figure("revision characters", ",.0f", meaning="and after"),
    Figure("cut", ".1%", meaning="revisions that were cut at max_new_tokens: their end is not learnt"),
)


class SlCai(Constitutional, Sft):
    """A model that learnt to answer the prompts in `data` as it revised its answers by a constitution."""

    example = "--model FOLDER --data prompts.jsonl --lr 1e-6"
    title = "sl-cai"
    helpful_formats = ("completions", "alpaca", "dolly")
    helpful_columns = ("sample_id", "messages", "response")

    critic = model_parameter("who criticises and revises; empty: --model", "generator")
    rounds = Whole(default=1, description="of critique and revision, each by a principle of its own")
    few_shot = luigi.Parameter(
        default="", description="file of dialogues that stand before every question (NeMo-Aligner's JSON); empty: none"
    )
    temperature = Number(default=0.0, least=0, description="of all answers; 0: the likeliest token each time")

    revised: dict[str, Revised]
    """What came of the prompts, by part, once the graph is planned."""

    def one_shot_setup(self, plan: Plan) -> OneShotSetup:
        """The prompts, split; then the revisions of both parts, blended where they are learnt from."""
        how = None
        given, self.revised = super().one_shot_setup(plan), {}
        for part, rows in given.parts.items():
            how = how or self._revising(plan, given)
            self.revised[part] = revised(plan, f"{given.label}/{part}", rows, how)
        last = {part: made.rows[-1] for part, made in self.revised.items()}
        train = self.blended(plan, given.label, last["train"])
        self.given = replace(given, train=train, held_out=last.get("held-out"))
        return self.given

    def _revising(self, plan: Plan, given: OneShotSetup) -> Revising:
        tokens, greedy = self.answer_tokens(given.reading), self.temperature == 0
        sampling = Sampling(
            max_new_tokens=tokens,
            stop=given.reading.rendering.stop,
            greedy=greedy,
            temperature=1.0 if greedy else self.temperature,
        )
        critic: Node = model_at(plan, self.critic, "generator") if self.critic else given.model
        few_shot = read_few_shot(self.few_shot) if self.few_shot else ()
        return Revising(
            model=given.model,
            reading=self.leaving_room(given, given.model, tokens),
            critic=critic,
            critic_reading=self.leaving_room(given, critic, tokens),
            sampling=sampling,
            principles=DrawPrinciple(principles=self.principles()),
            few_shot=tuple(parse(Line, turn) for turn in few_shot),
            rounds=self.rounds,
            seed=self.settled_seed,
        )

    def results(self, plan: Plan) -> Results:
        """What `Sft` makes of the revisions, and before it every answer, critique and revision."""
        made = super().results(plan)
        train, label = self.revised["train"], self.given.label
        datasets, figures = {"responses": train.responses}, dict(made.figures)
        for number, (critiques, rows) in enumerate(zip(train.critiques, train.rows, strict=True), 1):
            below = f"{label}/train/round={number}"
            prefix = "" if number == self.rounds else f"round={number}/"
            datasets |= {f"{prefix}critiques": critiques, f"{prefix}revisions": rows}
            figures[f"round={number}"] = changes(plan, below, rows)
        targets = (*(node for name, node in figures.items() if name not in made.figures), *made.targets)
        return replace(made, targets=targets, datasets={**datasets, **made.datasets}, figures=figures)

    def uses(self, given: OneShotSetup, trained: Node) -> Iterator[str]:
        """Answers of the policy, and the other half of the method, with this policy and these prompts."""
        yield from super().uses(given, trained)
        words = ["--model", near(trained.url), "--data", self.data, *(["--format", self.format] if self.format else [])]
        yield suggestions.command("RlCai", *words, "--constitution", self.constitution)

    def report(self) -> Sequence[FigureTable]:
        """What every round changed, then what `Sft` reports."""
        rows = []
        for number in range(1, self.rounds + 1):
            own = metrics(self.graph.figures[f"round={number}"])
            means = (own[f"{name}.mean"] for name in ("changed", "draft_characters", "revision_characters", "cut"))
            rows.append((number, own["changed.count"], *means))
        return [FigureTable(f"{self.task_family}: revisions", _COLUMNS, tuple(rows)), *super().report()]
