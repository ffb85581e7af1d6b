"""The generic Luigi task; what makes a node of a kind registers itself (`makes`, in `pipelines.makers`).

A task is its node's label and key, both plain strings. A task instance is never a parameter (`luigi.TaskParameter`
gives two chains that differ only upstream the same `task_id`, and one of them silently never runs); what a task has
to do hangs on it as `node` and travels with it to worker processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

import luigi
from luigi.rpc import RPCError

from pipelines.cli.console import Stage
from pipelines.graph.limits import check_rows
from pipelines.graph.node import Node
from pipelines.graph.resolve import near
from pipelines.graph.why import why
from pipelines.runtime.emptied import check_emptied
from pipelines.runtime.failures import failure_text
from pipelines.runtime.reuse import linked
from pipelines.runtime.targets import NodeTarget, ReadManifest
from schemas.errors import ConfigError
from schemas.process.parent import end_with_parent
from schemas.store.commit import read_manifest

_KINDS: dict[type[Node], type[Make]] = {}

_Task = TypeVar("_Task", bound="type[Make]")


def makes(kind: type[Node]) -> Callable[[_Task], _Task]:
    """Class decorator: tasks of this class make nodes of that `kind`."""

    def register(task: _Task) -> _Task:
        _KINDS[kind] = task
        return task

    return register


class Make(luigi.Task):
    """Makes one node. `label` says what to call it, `task_key` says which of all its versions."""

    label = luigi.Parameter()
    task_key = luigi.Parameter()
    node: Node

    place: tuple[int, int] = (0, 0)
    """Which stage of how many of the command that runs; (0, 0) where that is not known."""

    length_flag: str = "--max-length"
    """The flag of the command that runs which decides how many tokens a row may have."""

    is_shown: bool = True
    """Whether Luigi's scheduler still takes messages of the stage."""

    @property
    def task_family(self) -> str:
        """What Luigi's page calls the stage: what is done there, by whose family the page sorts, and its label."""
        node = getattr(self, "node", None)
        return f"{node.work['name']}: {self.label}" if node is not None else self.get_task_family()

    @property
    def priority(self) -> int:  # type: ignore[override]
        """Stages are done in the order in which they are counted."""
        return self.place[1] - self.place[0]

    def planned(self) -> Any:
        """The node; `ConfigError` for a task that somebody made from its parameters alone."""
        node = getattr(self, "node", None)
        if node is None:
            raise ConfigError(
                "no-plan",
                f"{self.label} cannot be made from its key alone",
                kept="nothing was started",
                next="run the recipe or the command that this stage belongs to",
            )
        return node

    def process_resources(self) -> dict[str, int]:
        """The GPUs of this machine, where the stage uses them."""
        from pipelines.runtime.workers import resources_of

        return resources_of(self.planned())

    def requires(self) -> list[luigi.Task]:
        """Tasks of everything the node is made of."""
        return tasks_of(self.planned().parents.values())

    def output(self) -> NodeTarget:
        return NodeTarget(self.planned())

    def on_failure(self, exception: BaseException) -> str:
        """Results and notes for the process that started all this."""
        return failure_text(exception)

    def run(self) -> None:
        """Make it, with one line before and one after."""
        end_with_parent()
        node = self.planned()
        position = f", stage {self.place[0]} of {self.place[1]}" if self.place[1] else ""
        with Stage(node.label, f"{node.work['name']} ({why(node)}){position}", self.tell) as stage:
            try:
                place = linked(node)
                if not place:
                    check_rows(node)
                    check_emptied(node, self.length_flag)
                stage.done(f"{near(place)} is the same: nothing was computed" if place else self.make(node, stage))
            except BaseException:
                _remove_empty(node)
                raise

    def tell(self, text: str, share: float | None) -> None:
        """Show on Luigi's page how far the stage is; a scheduler that is gone ends no stage."""
        if self.set_status_message is None or self.set_progress_percentage is None or not self.is_shown:
            return
        try:
            self.set_status_message(text)
            if share is not None:
                self.set_progress_percentage(round(100 * share))
        except RPCError:
            self.is_shown = False

    def make(self, node: Any, stage: Stage) -> str:
        """Do the work; returns what to say of it."""
        raise AssertionError(f"{type(self).__name__} makes nothing")


def _remove_empty(node: Node) -> None:
    """Remove the folders of a label in which a stage that failed left nothing."""
    folder = os.path.dirname(node.url)
    with suppress(OSError):
        while "://" not in node.root and folder.startswith(f"{node.root}/"):
            os.rmdir(folder)
            folder = os.path.dirname(folder)


def task_of(node: Node) -> Make:
    """The task that makes `node`."""
    kind: Any = _KINDS[type(node)]
    task: Make = kind(label=node.label, task_key=node.task_key)
    task.node = node
    return task


def tasks_of(nodes: Iterable[Node]) -> list[luigi.Task]:
    """The tasks that make `nodes`, each once; what is found needs none, but what it stands on may."""
    made = [one for node in nodes for one in ((node,) if node.made else node.parents.values())]
    return list(dict.fromkeys(task_of(node) for node in made if node.made))


def complete(node: Node, read: ReadManifest = read_manifest) -> bool:
    """Whether `node` lies where it belongs; what is not made is as complete as what it stands on."""
    if node.made:
        return NodeTarget(node, read).exists()
    return all(complete(parent, read) for parent in node.parents.values())
