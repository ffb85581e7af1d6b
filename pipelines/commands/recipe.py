"""The contract of a recipe: parameters, a graph with names, and figures as data.

A recipe is one file in `pipelines/recipes`, with the defaults of its parameters. It says in `results` what it makes
with a plan, and in `report` what was measured.
"""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

from pipelines.commands.command import Command
from pipelines.commands.templated import Templated
from pipelines.graph.nodes import Node
from pipelines.graph.plan import Plan
from pipelines.graph.results import Results
from pipelines.report.figures import FigureTable
from pipelines.report.registry import rendered
from pipelines.report.renderer import Report
from pipelines.runtime import settings
from pipelines.runtime.parameters import AssignmentsParameter, OptionalWhole, RenamedParameter, assigned_to
from pipelines.setups import setup_kind, setup_of
from pipelines.stages.iteration import TaskSetup

R = TypeVar("R", bound=Results)


class Recipe(Templated, Command, Generic[R]):
    """A graph over a task setup, whose datasets, checkpoints and figures have names."""

    training: ClassVar[str]
    """The parameter, of the recipe or of its setup, that `--set optim.lr=...` without a first word is about."""

    setup = RenamedParameter(
        older="source",
        default="digits",
        description="task setup: the section that says where prompts, data and models come from",
    )
    set = AssignmentsParameter(
        default=(),
        description="a setting of the recipe's training as key=value (optim.lr=1e-4), or of another training of the "
        "setup (base.epochs=2, reward.optim.lr=1e-4); may be repeated",
    )
    seed = OptionalWhole(least=0, default=None, description="of everything; empty: that of [quiver]")

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

    @functools.cached_property
    def changes(self) -> dict[str, dict[str, object]]:
        """What `--set` says, by the parameter that it is about."""
        return assigned_to(self.set, self.training, setup_kind(self.setup), type(self))

    def task_setup(self, plan: Plan) -> TaskSetup:
        """What the setup gives, with the changes that concern it."""
        own = {name for name, _ in self.get_params()}
        changes = {name: change for name, change in self.changes.items() if name not in own}
        return setup_of(self.setup, changes).task_setup(plan, self.settled_seed, self.rendering)

    def after(self) -> None:
        """The figures, in every way that there is to show them, and how to go on."""
        tables = tuple(table for table in self.report() if table.rows)
        shown = rendered(Report(title=self.task_family, folder=self.targets[-1].url.rpartition("/")[0], tables=tables))
        if shown:
            print(shown)
        self.go_on()

    def go_on(self) -> None:
        """Where the results lie."""
        print()
        super().after()
