"""The task that makes a table: one operation, in workers of its own."""

from __future__ import annotations

from typing import Any

from pipelines.cli.console import Stage, say_of
from pipelines.graph.nodes import Table
from pipelines.runtime import settings
from pipelines.runtime.tasks import Make, makes
from schemas.errors import counted, printable


@makes(Table)
class Apply(Make):
    """Makes a table: one operation, in workers of its own."""

    def make(self, node: Table, stage: Stage) -> str:
        """`datakit.apply` with the settings of `[quiver]`."""
        from datakit.apply import apply
        from pipelines.runtime.executors import executor_of
        from pipelines.runtime.resources import resource_of
        from schemas.dataset import Dataset

        quiver = settings.quiver_config()
        verify: Any = quiver.verify
        rows = node.inputs[0].schema if node.inputs else None
        precision = node.op.precision
        inputs = [Dataset.open(given.url, verify=verify) for given in node.inputs]
        made = apply(
            node.op,
            inputs,
            node.url,
            resources={name: resource_of(name, given, rows, precision) for name, given in node.resources.items()},
            seed=node.seed,
            executor=executor_of(node),
            on_progress=lambda progress: stage.move(str(progress), progress.share),
            max_rejected=None if node.op.max_rejected is None else quiver.max_rejected,
            rows_per_shard=node.rows_per_shard,
            task_key=node.task_key,
            hang_seconds=quiver.hang_seconds,
        )
        for note in node.op.notes(made.manifest):
            say_of(node.label, f"note: {note}")
        rejected = sum(file.rows for file in made.manifest.rejected)
        if not made.num_rows:
            came = "no row was read"
            if inputs:
                came = f"no row is left of {counted(sum(given.num_rows for given in inputs), 'row')}"
            aside = f", {rejected:,} set aside with the reason" if rejected else ""
            say_of(node.label, f"note: {came}{aside}")
        columns = made.manifest.stats["columns"]
        means = [(name, columns[name]["mean"]) for name in node.op.reported_means if "mean" in columns.get(name, {})]
        measured = "".join(f", mean {printable(name)} {mean:.4g}" for name, mean in means)
        return counted(made.num_rows, "row") + (f", {rejected:,} set aside" if rejected else "") + measured
