"""Tables of a run at its trackers: both packages by what they are called with, and that none of them ends a run."""

from __future__ import annotations

import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from pipelines.commands.recipe import _trackers
from pipelines.graph.plan import Plan
from pipelines.report.figures import Figure, FigureTable
from pipelines.report.renderer import Report
from pipelines.report.tracked import TRACKED
from tests.pipelines.toy import Count

TABLES = (
    FigureTable(
        "two iterations",
        (Figure("iteration"), Figure("gold", ".1%"), Figure("reward", "+.2f", " -> "), Figure("loss")),
        ((1, 0.25, (0.5, 1.0), None), (2, 0.5, None, math.inf)),
    ),
    FigureTable("pairs", (Figure("judge"), Figure("right", ".1%")), (("reward model", 0.75),)),
)
ROWS = {
    "two iterations": [[1, 0.25, "+0.50 -> +1.00", None], [2, 0.5, "-", None]],
    "pairs": [["reward model", 0.75]],
}


def report(root: Path, *track: str, tables: tuple[FigureTable, ...] = TABLES) -> Report:
    return Report(
        title="RestIteration", folder=str(root / "rest/x"), tables=tables, root=str(root), track=track,
        results=("rest/x/a-00000001", "rest/x/iter=2/policy-12345678"), command="quiver RestIteration",
    )  # fmt: skip


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """The module as far as it is called: what it was called with."""
    calls: list[tuple[str, Any]] = []

    class Run:
        def log(self, figures: dict[str, Any], **more: Any) -> None:
            calls.append(("log", {name: (table.columns, table.data) for name, table in figures.items()}))

        def finish(self, *, exit_code: int) -> None:
            calls.append(("finish", exit_code))

    class Table:
        def __init__(self, *, columns: list[str], data: list[list[Any]]) -> None:
            self.columns, self.data = columns, data

    def init(**given: Any) -> Run:
        calls.append(("init", given))
        return Run()

    module = types.ModuleType("wandb")
    module.__dict__.update(
        init=init, Table=Table, login=lambda prompt: False, Settings=lambda **settings: settings
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return calls


def test_weights_and_biases_has_every_table_in_one_run(tmp_path: Path, wandb: list[tuple[str, Any]]) -> None:
    assert TRACKED.render(report(tmp_path, "tensorboard", "wandb")) == "\ntables in wandb: RestIteration rest/x"
    TRACKED.render(report(tmp_path, "wandb"))
    begun = [given for name, given in wandb if name == "init"]
    assert begun[0]["mode"] == "offline" and begun[0]["config"]["command"] == "quiver RestIteration"
    assert len({one["id"] for one in begun}) == 1 and all(one["resume"] == "allow" for one in begun), "the same again"
    shown = {name: data for kind, given in wandb[:4] if kind == "log" for name, (_, data) in given.items()}
    assert shown == ROWS and ("finish", 0) in wandb
    assert next(given for kind, given in wandb if kind == "log")["two iterations"][0] == [
        "iteration", "gold", "reward", "loss",
    ]  # fmt: skip


def test_mlflow_has_them_as_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts: dict[str, Any] = {}
    tags: dict[str, str] = {}

    class Client:
        def __init__(self, tracking_uri: str) -> None:
            assert tracking_uri.startswith("file://")

        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str) -> str:
            return "0"

        def create_run(self, experiment: str, run_name: str) -> Any:
            return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_name))

        def get_run(self, run: str) -> Any:
            return types.SimpleNamespace(data=types.SimpleNamespace(tags=tags))

        def log_batch(self, run: str, **figures: Any) -> None:
            pass

        def log_text(self, run: str, text: str, file: str) -> None:
            texts[file] = json.loads(text)["data"]

        def set_tag(self, run: str, name: str, text: str) -> None:
            tags[name] = text

        def set_terminated(self, run: str, status: str) -> None:
            assert status == "FINISHED"

    module, entities = types.ModuleType("mlflow"), types.ModuleType("mlflow.entities")
    module.__dict__.update(MlflowClient=Client)
    entities.__dict__.update(Metric=dict, Param=lambda name, value: (name, value))
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert TRACKED.render(report(tmp_path, "mlflow")) == "\ntables in mlflow: RestIteration rest/x"
    assert texts == {"tables/two-iterations.json": ROWS["two iterations"], "tables/pairs.json": ROWS["pairs"]}
    assert [one["path"] for one in json.loads(tags["mlflow.loggedArtifacts"])] == [*texts]


def test_nothing_is_sent_unasked_and_what_fails_ends_no_run(
    tmp_path: Path, wandb: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for one in (report(tmp_path), report(tmp_path, "tensorboard"), report(tmp_path, "wandb", tables=())):
        assert TRACKED.render(one) == ""
    assert wandb == [] and not [*tmp_path.iterdir()]
    sys.modules["wandb"].__dict__["Table"] = None
    assert TRACKED.render(report(tmp_path, "wandb")) == ""
    assert "warning: wandb failed (TypeError: " in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert TRACKED.render(report(tmp_path, "wandb")) == ""
    assert "no wandb here: figures go to its page, not to wandb" in capsys.readouterr().err


def test_a_table_tracks_nothing(tmp_path: Path) -> None:
    assert _trackers(Plan(str(tmp_path)).table("toy/numbers", Count(rows=8))) == ()
