"""MLflow: a file store in `<folder>/mlruns`, or the server that `MLFLOW_TRACKING_URI` names.

A later start goes on with the same run; its history cannot be rewritten, so steps logged before are left out. In names
of figures `/` becomes `.`: the file store would take `loss` for a folder of `loss/...`.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import ClassVar

from trainers.engine.reporting.trackers.tracker import Cell, Facts, Memory, Status

_ENDS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_LONGEST, _AT_ONCE = 500, 100
"""MLflow's limits: characters of a parameter, parameters of one call."""
_TABLES = "mlflow.loggedArtifacts"
"""The tag by which MLflow's page and `mlflow.load_table` know which artifacts are tables."""


class Mlflow:
    """A run of the experiment `quiver`, or of `MLFLOW_EXPERIMENT_NAME`."""

    name: ClassVar[str] = "mlflow"
    package: ClassVar[str] = "mlflow"

    def start(self, facts: Facts) -> None:
        """Begin the run with its settings as parameters, or go on with it."""
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if uri is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            uri = (facts.folder / "mlruns").resolve().as_uri()
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, MlflowClient(tracking_uri=uri)
        memory = Memory(self.name, facts)
        if memory.id is not None:
            self._client.update_run(memory.id, status="RUNNING")
            self._run = memory.id
        else:
            self._run = self._client.create_run(self._experiment(), run_name=facts.name).info.run_id
            settings = iter([Param(name, str(value)[:_LONGEST]) for name, value in facts.settings.items()])
            while part := list(islice(settings, _AT_ONCE)):
                self._client.log_batch(self._run, params=part)
            memory.keep(self._run)
        self._logged = memory.last_logged

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """One batch of metrics, with this moment in milliseconds; a step that was logged is passed over."""
        if step > self._logged:
            now = time.time_ns() // 10**6
            metrics = [self._metric(_name(name), value, now, step) for name, value in figures.items()]
            self._client.log_batch(self._run, metrics=metrics)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """An artifact `tables/<name>.json` of the form of MLflow's `log_table`."""
        file = f"tables/{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')[:80] or 'table'}.json"
        whole = {"columns": list(columns), "data": [list(row) for row in rows]}
        self._client.log_text(self._run, json.dumps(whole, allow_nan=False), file)
        listed = json.loads(self._client.get_run(self._run).data.tags.get(_TABLES, "[]"))
        entry = {"path": file, "type": "table"}
        if entry not in listed:
            self._client.set_tag(self._run, _TABLES, json.dumps([*listed, entry]))

    def close(self, status: Status) -> None:
        """End the run with MLflow's own status."""
        self._client.set_terminated(self._run, _ENDS[status])

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "quiver")
        experiment = self._client.get_experiment_by_name(name)
        return str(experiment.experiment_id if experiment is not None else self._client.create_experiment(name))


def _name(name: str) -> str:
    """A name of a metric as MLflow allows it."""
    return "".join(mark if mark.isalnum() or mark in "_-. " else "." for mark in name)[:250]
