"""`--preview N`: the graph of a command over a few rows, in a workspace that is thrown away, and rows of every stage.

What is there already is read where it lies; nothing is written there. Models that are missing get two optimizer steps
(`pipelines.commands.small_graph`), so that what they answer says how rows look, and not how good anything is.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import luigi

from pipelines.cli.console import say
from pipelines.commands.command import Command, outstanding, prepare_models
from pipelines.commands.small_graph import STEPS, Small, is_beside, is_made_up
from pipelines.graph.node import Node
from pipelines.graph.nodes import Table, TrainedCheckpoint
from pipelines.graph.order import ordered
from pipelines.graph.plan import Plan
from pipelines.makers.training import last_figures
from pipelines.runtime import settings
from pipelines.runtime.command import runs_as
from pipelines.runtime.tasks import task_of
from schemas.dataset import Dataset
from schemas.errors import QuiverError, check_all, counted, printable
from schemas.process import terminal
from schemas.store.in_use import in_use

_ROWS = 2
"""Rows that are printed of a stage."""
_TEXTS = ("messages", "response", "chosen", "rejected", "reward")
"""Columns that are printed of rows that only came through."""
_KEPT = "the workspace, as it was; nothing is kept of a preview"


@runs_as
@contextmanager
def asked(command: luigi.Task) -> Iterator[luigi.Task]:
    """What is run of a command: itself, or its preview, below a root of its own that goes in the end."""
    with previewed(command) if getattr(command, "preview", None) else nullcontext(command) as task:  # type: ignore[arg-type]
        yield task


@contextmanager
def previewed(command: Command) -> Iterator[luigi.Task]:
    """The preview of `command`; its root goes however that ends."""
    todo, reused = outstanding(command.targets)
    check_all(command.checks(todo))
    folder = tempfile.mkdtemp(prefix="quiver-preview-")
    try:
        with in_use(settings.quiver_config().root), settings.below(folder):
            preview = _Preview()
            small = Small(folder, command.preview, {id(node) for node in reused}).of(command.targets)
            vars(preview).update(targets=tuple(small), named=command.task_family, count=command.preview)
            yield preview
    except QuiverError as error:
        for one in (*error.beside, error):
            one.kept, one.where = _KEPT, "" if folder in one.where else one.where
            one.next = "" if folder in one.next else one.next
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Preview(Command):
    """The small graph of another command, which `previewed` gives it."""

    named: ClassVar[str] = ""
    count: ClassVar[int] = 0
    """The other command, and how many rows of each input are looked at; they are those of an instance."""

    def build(self, plan: Plan) -> Sequence[Node]:
        raise AssertionError("its targets are given")

    def before(self) -> None:
        """Say what will run, and see to the models that it asks."""
        todo, _ = outstanding(self.targets)
        self.stays = _KEPT
        for number, node in enumerate(todo, 1):
            task_of(node).place = (number, len(todo))
        say(f"preview of {self.named}: {counted(len(todo), 'stage')} over {counted(self.count, 'row')} of each input")
        prepare_models(todo)

    def after(self) -> None:
        """Rows of every stage of the small graph, and of those that were there where it begins."""
        print("\n".join(self._lines()))

    def _lines(self) -> Iterator[str]:
        here = settings.quiver_config().root
        stages = [node for node in ordered(self.targets, ends=lambda one: one.root != here) if node.made]
        yield terminal.wrapped(
            f"preview of {self.named}: {counted(self.count, 'row')} of each input, and {STEPS} steps of each model "
            "that is missing; no figure here says how good anything is"
        )
        for node in stages:
            if not is_beside(node):
                mark = "preview" if node.root == here else "there already"
                yield from ("", f"{printable(node.label, 60)}  ({mark})", *_shown(node))
        yield from ("", terminal.wrapped("nothing of this preview is kept; the workspace is as it was"))


def _shown(node: Node) -> Iterator[str]:
    """What there is of a stage."""
    manifest = node.manifest()
    if manifest is None or manifest.kind != "dataset":
        figures = last_figures(node.url) if isinstance(node, TrainedCheckpoint) else {}
        loss = f", preview: step {figures['step']}, loss {figures['loss']:.4f}" if figures else ""
        yield terminal.wrapped(f"  {printable(node.kind)} of {printable(node.work.get('name', ''))}{loss}")
        return
    gone = sum(file.rows for file in manifest.rejected)
    aside = f", {gone:,} set aside" if gone else ""
    yield f"  {counted(manifest.num_rows, 'row')}{aside}{' made up, because none came' if is_made_up(node) else ''}"
    names = _columns(node)
    for number, row in enumerate(Dataset.open(node.url, "off").first(_ROWS).to_pylist()):
        yield from _row(number, {name: row[name] for name in names})


def _columns(node: Node) -> list[str]:
    """The columns that a stage adds; of rows that only came through, their texts."""
    assert node.schema is not None, node.label
    given = node.inputs[0].schema if isinstance(node, Table) and node.inputs else None
    new = [name for name in node.schema.names if given is None or name not in given]
    return new or [name for name in node.schema.names if name in _TEXTS] or list(node.schema.names)


def _row(number: int, row: dict[str, Any]) -> Iterator[str]:
    """A row in lines that fit the terminal."""
    for place, (name, value) in enumerate(row.items()):
        head = f"  {number if place == 0 else ' '}  {printable(name, 24)}: "
        yield head + printable(value, terminal.width() - len(head))
