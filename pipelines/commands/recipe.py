"""The contract of a recipe: parameters, a graph with names, and figures as data.

A recipe is one file in `pipelines/recipes`, with the defaults of its parameters. It says in `results` what it makes
with a plan, and in `report` what was measured.
"""

from __future__ import annotations

import functools
import os
import shlex
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import luigi
from luigi.rpc import RPCError

from datakit.catalog.workspace import run_folder
from pipelines.cli import invocation
from pipelines.cli.console import say
from pipelines.cli.learning import AssignmentsParameter, Assigns, MergedParameter
from pipelines.cli.parameters import OptionalWhole, RenamedParameter
from pipelines.commands.command import Command
from pipelines.commands.templated import Templated
from pipelines.graph.node import Node
from pipelines.graph.nodes import TrainedCheckpoint
from pipelines.graph.order import ordered
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import folder_name, near
from pipelines.graph.results import Results
from pipelines.report.figures import FigureTable
from pipelines.report.registry import rendered, renderers
from pipelines.report.renderer import Report
from pipelines.report.set_aside import set_aside
from pipelines.runtime import settings
from pipelines.setups import setup_kind, setup_of
from pipelines.stages.iteration import TaskSetup
from schemas.errors import ConfigError, printable
from schemas.process import terminal

R = TypeVar("R", bound=Results)


class Recipe(Templated, Assigns, Command, Generic[R]):
    """A graph whose datasets, checkpoints and figures have names."""

    set = AssignmentsParameter(
        default=(),
        description="a setting of the recipe's training as key=value (optim.lr=1e-4), or of another training of the "
        "setup (base.epochs=2, reward.optim.lr=1e-4); may be repeated",
    )
    seed = OptionalWhole(least=0, default=None, description="of everything; empty: that of [quiver]")
    experiment = luigi.Parameter(default="", description="folder below the recipe's; empty: the name of the data")

    @abstractmethod
    def results(self, plan: Plan) -> R:
        """Everything that is made, as nodes of `plan`; whatever is wrong with the graph is raised here."""

    @abstractmethod
    def report(self) -> Sequence[FigureTable]:
        """What was measured, once everything is there."""

    @functools.cached_property
    def graph(self) -> R:
        """The results below the root that is configured."""
        return self.results(Plan(settings.quiver_config().root))

    @functools.cached_property
    def targets(self) -> tuple[Node, ...]:
        """The nodes that are wanted."""
        return self.graph.targets

    def build(self, plan: Plan) -> Sequence[Node]:
        """The nodes that are wanted, made with `plan`."""
        return self.results(plan).targets

    @property
    def settled_seed(self) -> int:
        """`seed`, or that of `[quiver]`."""
        return settings.quiver_config().seed if self.seed is None else self.seed

    def folder(self, title: str) -> str:
        """`--experiment`, or else the `title` of the data, as the name of a folder."""
        name = folder_name(self.experiment or title)
        if self.experiment and name != self.experiment:
            raise ConfigError(
                "bad-parameter", f"experiment {printable(self.experiment, 80)} is no name of one folder",
                expected="letters, digits, _, +, - and . inside", kept="nothing was started",
                next=f"luigi --module pipelines {self.task_family} --experiment {name}",
            )  # fmt: skip
        return name

    def run(self) -> None:
        """Nothing is left to do; Luigi's page links to the one of figures, which is written next."""
        for place in filter(None, (renderer.place(self._measured([])) for renderer in renderers())):
            with suppress(RPCError):
                if self.set_tracking_url is not None and self.set_status_message is not None:
                    self.set_tracking_url(Path(place).absolute().as_uri())
                    self.set_status_message(f"page {near(place)}")

    def after(self) -> None:
        """The figures, in every way that there is to show them, and how to go on."""
        tables = [table for table in self.report() if table.rows]
        lost = set_aside(self.targets, self.length_flag)
        if tables:
            tables[-1] = replace(tables[-1], notes=(*tables[-1].notes, *lost))
        elif lost:
            print("".join(f"\n{terminal.wrapped(note)}" for note in lost))
        shown = rendered(self._measured(tables))
        if shown:
            print(shown)
        self.go_on()

    def _measured(self, tables: Sequence[FigureTable]) -> Report:
        """What there is to show."""
        last = self.targets[-1]
        program, *words = invocation.again()
        nodes = [node for node in ordered(self.targets) if node.url.startswith(f"{node.root}/") and node is not last]
        return Report(
            title=self.task_family,
            folder=f"{last.root}/{run_folder(last.label)}",
            tables=tuple(tables),
            root=last.root,
            results=tuple(node.url.removeprefix(f"{node.root}/") for node in (*nodes, last)),
            command=shlex.join([os.path.basename(program), *words]),
            track=tuple(dict.fromkeys(name for node in (*nodes, last) for name in _trackers(node))),
        )

    def go_on(self) -> None:
        """Print, behind the figures, where the results lie; a recipe that goes on from here says how as well."""
        print()
        super().after()


class SetupRecipe(Recipe[R]):
    """A recipe over a task setup."""

    setup = RenamedParameter(
        older="source",
        default="digits",
        description="task setup: the section that says where prompts, data and models come from",
    )

    asks: ClassVar[tuple[str, ...]] = ("reward",)
    """What it cannot do without of what a setup may lack: `reward`, `original`."""

    @property
    def sections(self) -> tuple[type[luigi.Task], ...]:
        """Those of the setup too."""
        return (setup_kind(self.setup), type(self))

    @property
    def length_flag(self) -> str:
        return f"--{self.setup}-max-length"

    @abstractmethod
    def results_of(self, plan: Plan, task_setup: TaskSetup) -> R:
        """What `results` says, made of what the setup gives."""

    def results(self, plan: Plan) -> R:
        task_setup = self.task_setup(plan)
        results = self.results_of(plan, task_setup)
        self._check_changes(task_setup, results)
        return results

    def task_setup(self, plan: Plan) -> TaskSetup:
        """What the setup gives, with the changes that concern it."""
        return setup_of(self.setup, self._setup_changes).task_setup(plan, self.settled_seed, self.rendering, self.asks)

    @property
    def _setup_changes(self) -> dict[str, dict[str, Any]]:
        """The changes of the setup's parameters."""
        own = {name for name, _ in self.get_params()}
        return {name: change for name, change in self.changes.items() if name not in own}

    def _check_changes(self, task_setup: TaskSetup, results: R) -> None:
        """`ConfigError` for a change of a training of the setup that nothing of the `results` comes of, by `--set`, a
        flag of the setup or the file of flags; a line where `luigi.cfg`, which all recipes share, says it.
        """
        flags = {name: invocation.flag_of(f"{self.setup}_{name}") for name in _trainings(self.setup)}
        config = luigi.configuration.get_config()
        given = {name for name, flag in flags.items() if invocation.value(flag) or config.has_option(self.setup, name)}
        changed = given.union(self._setup_changes) - {self.training}
        if not changed:
            return
        planned = {id(node) for target in results.targets for node in target.ancestors()}
        read = [name for name, node in task_setup.trained.items() if id(node) in planned]
        for assignment in self.set:
            name, _, rest = assignment.partition(".")
            if name in changed - {*read}:
                raise ConfigError(
                    "bad-setting",
                    f"--set {printable(assignment, 80)} changes nothing: nothing of this recipe comes of {name} of the "
                    f"setup {self.setup}",
                    expected=", ".join([*read, "or a key without a first word: the recipe's own training"]),
                    kept="nothing was started",
                    next=f"--set {shlex.quote(printable(rest, 80))}",
                )
        for part in sorted(given & changed - {*read}):
            why = f"changes nothing: nothing of this recipe comes of {part} of the setup {self.setup}"
            if not invocation.value(flags[part]):
                say(f"{part} in section [{self.setup}] of luigi.cfg {why}")
                continue
            raise ConfigError(
                "bad-setting",
                f"{flags[part]} {why}",
                expected=", ".join([*(flags[one] for one in read), f"--{self.training}"]),
                kept="nothing was started",
                next=self._without(part, flags[part]),
            )

    def _without(self, name: str, flag: str) -> str:
        """The command without the `flag` of a training of the setup, or with its value for the recipe's own."""
        if invocation.is_in_file(flag):
            return f"take {flag[2:]} out of the file of --config, then run the same command again"
        if name == "improve" and not invocation.value(f"--{self.training}"):
            return invocation.replaced(flag, f"--{self.training}", "{}")
        return invocation.without(flag)


def _trackers(node: Node) -> tuple[str, ...]:
    """The trackers that a training was asked to tell."""
    return node.training.execution.track if isinstance(node, TrainedCheckpoint) else ()


def _trainings(setup: str) -> list[str]:
    """The parameters of a setup that are settings of a training, or of a network."""
    return [name for name, one in setup_kind(setup).get_params() if isinstance(one, MergedParameter)]
