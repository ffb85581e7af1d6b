"""`--suite` of `Evaluate`: suites planned over their files, and their figures as one table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import luigi

from datakit.clients import Sampling
from pipelines.cli import invocation
from pipelines.cli.parameters import Whole
from pipelines.cli.references import model_parameter
from pipelines.cli.unread import refuse_unread
from pipelines.commands.files import ReadsFiles
from pipelines.commands.templated import BoundedAnswers, Sampled
from pipelines.graph.backend import model_at
from pipelines.graph.from_file import first_of, reader_of_rows
from pipelines.graph.node import Node, rows_of
from pipelines.graph.placement import parted
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import names_in, places_in, rows_at, stem
from pipelines.report.figures import Figure, FigureTable, metrics
from pipelines.report.table import text
from pipelines.runtime import settings
from pipelines.stages.ask import Reading
from pipelines.suites.registry import suites
from pipelines.suites.suite import Examples, Given, Measured, Suite
from schemas.errors import ConfigError

_METRIC = re.compile(r"(?P<name>[^\[\]]+?)(?P<end>\.low|\.high|\.rows)?(?:\[(?P<slice>.*)\])?", re.DOTALL)
_TABLE = (
    Figure("figure"),
    Figure("slice"),
    Figure("value", ".4f", meaning="the mean over questions"),
    Figure("low", ".4f", meaning="where its 95 % interval begins (bootstrap over questions)"),
    Figure("high", ".4f", meaning="where it ends"),
    Figure("rows", ",.0f", meaning="what it is a mean of"),
)


class Suited(Sampled, BoundedAnswers, ReadsFiles):
    """Of a command that runs suites."""

    suite = luigi.Parameter(default="", description="benchmark, or several, divided by commas: quiver suites")
    data = luigi.Parameter(default="", description="file or dataset folder of each suite's rows, divided by commas")
    judge = model_parameter("who compares answers with a baseline's (suite win_rate)", "judge")
    few_shot = Whole(least=0, default=0, description="examples with answers before each question of a suite")
    examples = luigi.Parameter(
        default="", description="file or dataset folder of each suite's examples, divided by commas; empty: of --data"
    )
    few_shot_choice = luigi.ChoiceParameter(
        choices=("seeded", "first"),
        default="seeded",
        description="other examples for every question, or the file's first",
    )
    reward_model: str
    """The flag of the command that suits may read instead of `--judge`."""

    measured: dict[str, tuple[Suite, Measured]]
    """What each suite makes, once the graph is planned."""

    def suites(self, plan: Plan, chosen: Sequence[Suite], model: Callable[[Suite], str], prefix: str) -> list[Node]:
        """The figures of every one of the `chosen` suites, asked of the `model` that it is for; `ConfigError` where
        there are not as many files as suites.
        """
        files = _one_each(chosen, self.data, "--data")
        shown = _one_each(chosen, self.examples, "--examples") if self.examples else files
        self._check_examples(chosen)
        self.measured = {}
        for suite, file, examples in zip(chosen, files, shown, strict=True):
            asked = model(suite)
            label = f"{prefix}/{suite.name}/{stem(parted(asked)[0])}"
            given = self._given(plan, suite, file, asked, label)
            if self.few_shot:
                rows = self._rows(plan, suite, examples)[0]
                choose: Any = self.few_shot_choice
                few = Examples(count=self.few_shot, choose=choose, examples=rows)
                given = replace(given, few_shot=few)
            self.measured[suite.name] = suite, suite.measured(plan, given)
        return [measured.figures for _, measured in self.measured.values()]

    def unsuited(self) -> None:
        """`ConfigError` for flags that suites alone read, where there is none."""
        idle = {
            "--data": self.data != "",
            "--judge": self.judge != "",
            "--samples-per-prompt": self.samples_per_prompt != 1,
            "--temperature": self.temperature != 1,
            "--top-k": self.top_k != 0,
            "--top-p": self.top_p != 1,
            "--few-shot": self.few_shot != 0,
            "--examples": self.examples != "",
            "--few-shot-choice": self.few_shot_choice != "seeded",
        }
        refuse_unread(idle, "--suite alone reads that; --prompts are answered once, at temperature 1")

    def _check_examples(self, chosen: Sequence[Suite]) -> None:
        """`ConfigError` for examples of a suite that shows none, and for flags about them where none is asked for."""
        if not self.few_shot:
            idle = {"--examples": self.examples != "", "--few-shot-choice": self.few_shot_choice != "seeded"}
            refuse_unread(idle, "no examples are asked for: --few-shot says how many stand before a question")
        without = [suite.name for suite in chosen if not suite.shows]
        if self.few_shot and without:
            raise ConfigError(
                "bad-setting",
                f"--few-shot: suite {without[0]} shows no examples",
                expected=f"suites of {', '.join(name for name, suite in suites().items() if suite.shows)}",
                found=", ".join(without),
                kept="nothing was started",
                next=invocation.without("--few-shot", "--examples", "--few-shot-choice"),
            )

    def without_suites(self, **given: object) -> None:
        """`ConfigError` for flags, by parameter, that none of the suites reads."""
        idle = {invocation.flag_of(name): bool(value) for name, value in given.items()}
        refuse_unread(idle, "no suite that was named reads that; its rows are --data, and it says what is right")

    def _given(self, plan: Plan, suite: Suite, file: str, model: str, label: str) -> Given:
        asked = model_at(plan, model, suite.role)
        judge, reward_model = self._second(plan, suite)
        longest, answer = self.bounds([asked, reward_model])
        drawn = suite.role == "generator"
        room = longest if longest is None or not drawn else longest - answer
        rows, slices = self._rows(plan, suite, file)
        return Given(
            label=label,
            rows=rows,
            model=asked,
            reading=Reading(rendering=self.rendering, max_length=room),
            sampling=self._sampling(suite, answer),
            slices=slices,
            seed=settings.quiver_config().seed,
            judge=judge,
            reward_model=reward_model,
        )

    def _second(self, plan: Plan, suite: Suite) -> tuple[Node | None, Node | None]:
        """The judge or the reward model of a suite that compares; `ConfigError` for both, and for neither."""
        if not suite.compares:
            return None, None
        if bool(self.judge) == bool(self.reward_model):
            raise ConfigError(
                "bad-setting" if self.judge else "missing-parameter",
                f"--suite {suite.name} asks one second model which of two answers is better",
                expected="a judge (--judge) or a reward model (--reward-model)",
                kept="nothing was started",
                next=invocation.without("--reward-model") if self.judge else invocation.completed("--judge MODEL"),
            )
        if self.judge:
            return model_at(plan, self.judge, "judge"), None
        return None, model_at(plan, self.reward_model, "scorer")

    def _sampling(self, suite: Suite, answer: int) -> Sampling:
        """The likeliest answer where one is asked for and nothing says how it is drawn."""
        plain = (self.samples_per_prompt, self.temperature, self.top_k, self.top_p) == (1, 1, 0, 1)
        stop = tuple(dict.fromkeys((*suite.stop, *self.rendering.stop)))
        return self.sampling(answer, stop, greedy=plain)

    def _rows(self, plan: Plan, suite: Suite, file: str) -> tuple[Node, tuple[str, ...]]:
        """The rows, and the columns of those slices that they have."""
        forms: Any = self.format or suite.formats
        given: dict[str, Any] = {**self.file_settings}
        given["columns"] = {**suite.columns, **given.get("columns", {})}
        rows = rows_at(plan, file, forms, **given)
        read = reader_of_rows(rows)
        unread = first_of(read)[1] if read is not None else set()
        more = [key for key in suite.slices if key.partition(".")[0] in unread]
        if more:
            keep = [*dict.fromkeys([*given.get("keep", ()), *more])]
            rows = rows_at(plan, file, forms, **{**given, "keep": keep})
        names = [name for key in suite.slices for name in (key, key.replace(".", "_")) if name in rows_of(rows)]
        return rows, tuple(dict.fromkeys((*names, *self._kept(rows))))

    def _kept(self, rows: Node) -> list[str]:
        """Columns that the command itself has kept: figures are sliced by these, too."""
        return [name for key in names_in(self.keep) if (name := key.replace(".", "_")) in rows_of(rows)]

    def tables(self) -> str:
        """The figures of each suite as a table, a line for each figure and slice."""
        shots = (f"  {self.few_shot} examples stand before each question",) if self.few_shot else ()
        return "\n\n".join(text(_table(suite, measured, shots)) for suite, measured in self.measured.values())


def _one_each(chosen: Sequence[Suite], text: str, flag: str) -> list[str]:
    """The places in `text`, one for each suite; `ConfigError` for more or fewer."""
    files = places_in(text)
    if len(files) != len(chosen):
        raise ConfigError(
            "missing-parameter" if not files else "bad-setting",
            f"{len(chosen)} suites read {len(files)} files of {flag}",
            expected="a file or dataset folder for each suite, in their order, divided by commas",
            found=text, kept="nothing was started",
            next=invocation.completed(f"{flag} FILE") if not files else f"{flag} {','.join(['FILE'] * len(chosen))}",
        )  # fmt: skip
    return files


def _table(suite: Suite, measured: Measured, notes: tuple[str, ...]) -> FigureTable:
    meanings = tuple(f"  {name}: {words}" for name, words in measured.meanings.items())
    return FigureTable(
        f"{suite.name}: {suite.about}", _TABLE, tuple(_lines(metrics(measured.figures))), (*meanings, *notes)
    )


def _lines(figures: Mapping[str, float]) -> Iterator[tuple[str | float | None, ...]]:
    """Figure, slice, value, both ends of the interval, rows."""
    lines: dict[tuple[str, str], dict[str, float]] = {}
    for metric, value in figures.items():
        match = _METRIC.fullmatch(metric)
        assert match is not None, metric
        lines.setdefault((match["name"], match["slice"] or ""), {})[match["end"] or ""] = value
    for (name, part), ends in lines.items():
        yield name, part or "all", ends.get(""), ends.get(".low"), ends.get(".high"), ends.get(".rows")
