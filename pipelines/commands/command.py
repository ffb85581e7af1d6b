"""What a user asks for on the command line: a small graph, said in a few words before it runs and after it is done."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, ClassVar

import luigi

from datakit.run.chunks import remove_stale
from pipelines.cli.console import labelled, say, say_of
from pipelines.cli.file_flags import of_file
from pipelines.cli.parameters import PreviewRows
from pipelines.commands.outlook import lines, outlook
from pipelines.graph.backend import ROLES, backend_of, roles_of
from pipelines.graph.faults import Faults, is_stand_in, spoilt
from pipelines.graph.limits import check_rows
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table
from pipelines.graph.order import ordered
from pipelines.graph.plan import Plan
from pipelines.graph.rehearsal import rehearsals
from pipelines.graph.why import why
from pipelines.runtime import disk_estimate, settings
from pipelines.runtime.emptied import check_emptied
from pipelines.runtime.processes import preload
from pipelines.runtime.tasks import complete, task_of, tasks_of
from pipelines.runtime.training import check
from schemas import end_tokens
from schemas.chat_template import ChatTemplate
from schemas.errors import StorageError, check_all, counted, printable
from schemas.store.commit import read_manifest

_SHOWN = 12
_REACH = 1.0
"""Seconds in which a model has to answer that is only looked for."""


class Command(luigi.Task):
    """A task that makes nothing itself: it is complete when the last nodes of its graph are."""

    config = luigi.Parameter(
        default="",
        significant=False,
        description="YAML or JSON file of flags and their values; flags given beside it win",
    )

    dry_run = luigi.BoolParameter(
        default=False, significant=False, description="list the stages that would run, each with the reason, and stop"
    )
    preview = PreviewRows(
        significant=False,
        description="run it over so many rows (10) in a workspace that is thrown away, and print rows of every stage",
    )

    stays: str = ""
    """What stays of its work where it is stopped, once that is planned."""

    example: ClassVar[str] = ""
    """Flags that show what a command needs; words in capitals are a user's own."""

    @abstractmethod
    def build(self, plan: Plan) -> Sequence[Node]:
        """The nodes that are wanted, made with `plan`; whatever is wrong with the graph is raised here."""

    @functools.cached_property
    def targets(self) -> tuple[Node, ...]:
        """The nodes that are wanted."""
        return tuple(self.build(Plan(settings.quiver_config().root)))

    @property
    def length_flag(self) -> str:
        """The flag that decides how many tokens a row may have."""
        return "--max-length"

    def requires(self) -> list[luigi.Task]:
        """Tasks of the wanted nodes."""
        return tasks_of(self.targets)

    def complete(self) -> bool:
        """Whether all wanted nodes are there."""
        return all(complete(node) for node in self.targets)

    def run(self) -> None:
        """Nothing is left to do once what it requires is there."""

    def outlook(self) -> dict[str, Any]:
        """What would run, and why (`pipelines.commands.outlook`)."""
        return outlook(self.task_family, *outstanding(self.targets))

    def list_stages(self) -> None:
        """Print the stages that would run, each with its reason."""
        print("\n".join(lines(self.outlook())))

    def before(self) -> None:
        """Check the whole graph, then say what will run and why, and what is there already."""
        todo, reused = outstanding(self.targets)
        for node in reused:
            with suppress(StorageError):
                remove_stale(node.url)
        reuse = f"{len(reused)} reused" if reused else "nothing is there yet"
        if not todo:
            say(f"{self.task_family}: everything is there already, nothing to do")
            return
        check_all(self.checks(todo))
        self.stays = what_stays(todo)
        for number, node in enumerate(todo, 1):
            made = task_of(node)
            made.place, made.length_flag = (number, len(todo)), self.length_flag
        disk_estimate.check(todo)
        say(f"{self.task_family}: {counted(len(todo), 'stage')} to do, {reuse}")
        prepare_models(todo)
        causes = [(node, why(node)) for node in todo] if reused else []
        changed = [(node, cause) for node, cause in causes if cause != "first time"]
        for node, cause in changed[:_SHOWN]:
            say_of(f"  {node.label}", cause)
        if len(changed) > _SHOWN:
            say(f"  and {counted(len(changed) - _SHOWN, 'stage')} behind them")

    def looked_at(self, faults: Faults) -> tuple[list[Node], list[Node]]:
        """What has to be made and what stands already, as far as the graph can be made, and held against all that a run
        is held against before it starts; `faults` has what is refused. Nothing is written, and no model works.
        """
        plan = Plan(settings.quiver_config().root, faults)
        targets = faults.attempt(lambda: self.build(plan), lambda: [*plan.nodes.values()])
        todo, reused = outstanding(targets, faults)
        bad = spoilt(todo)
        sound = [node for node in todo if id(node) not in bad]
        faults.gather(self.checks(sound, [node for node in todo if not faults.is_refused(node)]))
        faults.gather(reached(todo))
        faults.gather([functools.partial(disk_estimate.check, todo)])
        return todo, reused

    def checks(self, todo: Sequence[Node], trained: Sequence[Node] = ()) -> Iterator[Callable[[], object]]:
        """What the stages `todo` are held against before one of them runs, and the trainings among `trained`; with
        these, the first rows even of a stage that is alone.
        """
        for node in todo:
            yield functools.partial(check_rows, node)
            yield functools.partial(check_emptied, node, self.length_flag)
        for node in trained or todo:
            if node.trains:
                yield functools.partial(check, node)
        if not settings.quiver_config().max_rejected and (len(todo) > 1 or trained):
            yield from rehearsals(todo, functools.partial(of_file, self))

    def after(self) -> None:
        """Say where the results lie."""
        for node in self.targets:
            print(labelled(node.label, node.url))


def what_stays(todo: Sequence[Node]) -> str:
    """What stays of the stages `todo` where they are stopped."""
    parts = ["every finished stage"] if len(todo) > 1 else []
    if any(node.trains for node in todo):
        parts.append("steps of a training up to its last save")
    if any(isinstance(node, Table) and roles_of(node.op) for node in todo):
        parts.append("what models had answered")
    return ", ".join(parts) or "nothing of this one stage, which begins anew; its input is as it was"


def prepare_models(todo: Sequence[Node]) -> None:
    """See to the models that `todo` asks: those that are there must answer; say what a person should know of them."""
    asked = [(node, model) for node in todo for role, model in node.parents.items() if role in ROLES]
    modules = dict.fromkeys(
        name for node, model in asked if isinstance(node, Table) for name in backend_of(model).preload
    )
    notes: set[str] = set()
    for model in {id(model): model for _, model in asked}.values():
        backend = backend_of(model)
        backend.health(model)
        notes.update(backend.notes(model))
        if backend.determinism(model) == "none":
            notes.add(f"{printable(model.name)} may answer otherwise another time: what it answers once is kept")
    notes.update(written_otherwise(node) for node in todo if isinstance(node, Table))
    for note in sorted(notes - {""}):
        say(note)
    preload(modules)


def written_otherwise(node: Table) -> str:
    """A line where a model is asked about rows that were written with another template than it learnt; else empty."""
    rows = [one.written_facts for one in node.inputs]
    for role in roles_of(node.op):
        model = node.resources[role]
        written = [ChatTemplate.of(facts) for facts in rows if end_tokens.FACT in facts]
        if model.trained_template.facts and any(one != model.trained_template for one in written):
            return f"{printable(model.name)} was trained with another chat template than it is asked with: {node.label}"
    return ""


def reached(todo: Sequence[Node]) -> list[Callable[[], object]]:
    """Whether each model that `todo` asks can be reached within `_REACH` seconds, asked of all at once."""
    models = {id(node): node for one in todo for role, node in one.parents.items() if role in ROLES}
    asked = [model for model in models.values() if not is_stand_in(model) and model.kind != "dataset"]
    with ThreadPoolExecutor(max_workers=max(1, len(asked))) as pool:
        answers = [pool.submit(backend_of(model).reach, model, _REACH) for model in asked]
    return [answer.result for answer in answers]


def outstanding(targets: Sequence[Node], faults: Faults | None = None) -> tuple[list[Node], list[Node]]:
    """What has to be made, each behind what it is made of, and what stands already where the work begins; no manifest
    is read twice. `ConflictError` for what was made of other content than stands now, unless `faults` notes it.
    """
    reused: set[int] = set()
    read = functools.cache(read_manifest)

    def is_there(node: Node) -> bool:
        if faults is None:
            return complete(node, read)
        return faults.attempt(lambda: complete(node, read), lambda: False)

    def stands(node: Node) -> bool:
        if is_there(node):
            reused.add(id(node))
        return id(node) in reused

    nodes = ordered(targets, ends=stands)
    standing = [node for node in nodes if id(node) in reused and node.made]
    todo = {(node.label, node.task_key): node for node in nodes if node.made and id(node) not in reused}
    return list(todo.values()), standing
