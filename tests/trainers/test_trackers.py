"""Trackers: what a run tells them, that a step logged twice is shown once, and that none of them stops a run."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, get_args, get_type_hints

import pytest
import torch

from schemas.errors import Stopped
from schemas.settings import parse
from tests.trainers import toys
from tests.trainers.test_run import stopping_after
from trainers import run as runs
from trainers.config import Execution, Run
from trainers.engine.reporting import report
from trainers.engine.reporting.report import all_trackers
from trainers.engine.reporting.trackers.tracker import Cell, Facts, Trackers

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
FIGURES = [{"loss": 4.0 - step / 2, "loss/web": 1.0 / step} for step in range(1, 8)]


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


def log_to(name: str, folder: Path) -> None:
    """Steps 1 to 5, killed; then on after step 3, the end of the run's steps 4 to 7."""
    first = all_trackers()[name]()
    first.start(Facts("run", folder, {"optim.lr": 0.1, "records": None}))
    for step, figures in enumerate(FIGURES[:5], 1):
        first.log(step, figures)
    if name != "mlflow":
        first.close("stopped")
    second = all_trackers()[name]()
    second.start(Facts("run", folder, {"optim.lr": 0.1, "records": None}, first=3, last_logged=5))
    for step, figures in enumerate(FIGURES[3:], 4):
        second.log(step, figures)
    second.close("finished")


def test_the_configuration_knows_every_tracker() -> None:
    assert set(get_args(get_args(get_type_hints(Execution)["track"])[0])) == set(all_trackers())


@needs("tensorboard")
def test_tensorboard_shows_every_step_once(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_to("tensorboard", tmp_path)
    shown = EventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    assert shown.Tags()["scalars"] == ["loss", "loss/web"]
    points = {point.step: point.value for point in shown.Scalars("loss")}
    assert len(shown.Scalars("loss")) == 7 and points == {s: f["loss"] for s, f in enumerate(FIGURES, 1)}


@needs("mlflow")
def test_mlflow_shows_every_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    log_to("mlflow", tmp_path)
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("quiver")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["optim.lr"] == "0.1"
    for name, shown in (("loss", "loss"), ("loss/web", "loss.web")):
        points = [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, shown)]
        assert sorted(points) == [(step, figures[name]) for step, figures in enumerate(FIGURES, 1)]


@needs("mlflow")
def test_mlflow_has_tables_of_its_own_form_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow import MlflowClient

    for gold in (0.25, 0.5):
        tracker = all_trackers()["mlflow"]()
        tracker.start(Facts("run", tmp_path, {"command": "quiver Some"}, last_logged=1))
        tracker.table("two <b>iterations</b>: ../x", ("iteration", "gold"), [("1", None), ("2", gold)])
        tracker.close("finished")
    client = MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    experiment = client.get_experiment_by_name("quiver")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["command"] == "quiver Some"
    file = "tables/two-b-iterations-b-x.json"
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": file, "type": "table"}]
    (place,) = tmp_path.glob(f"mlruns/*/*/artifacts/{file}")
    assert json.loads(place.read_text()) == {"columns": ["iteration", "gold"], "data": [["1", None], ["2", 0.5]]}


@needs("wandb")
def test_wandb_writes_every_step_once_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    log_to("wandb", tmp_path)
    folders = sorted(path for path in (tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and len({path.name.rpartition("-")[2] for path in folders}) == 1, "one id, two starts"
    steps = [step for folder in folders for step in history(next(folder.glob("*.wandb")).read_bytes())]
    assert [step["loss"] for step in steps] == [figures["loss"] for figures in FIGURES]
    assert steps[5]["_step"] == 6 and steps[5]["loss/web"] == FIGURES[5]["loss/web"]


def history(data: bytes) -> list[dict[str, Any]]:
    """The history rows of an offline run: a LevelDB log of protocol buffers."""
    from wandb.proto.wandb_internal_pb2 import Record

    records, at, whole = [], 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = Record.FromString(whole)
            whole = b""
            if record.HasField("history"):
                items = record.history.item
                records.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return records


class Broken:
    """Counts its calls and fails where it is set to."""

    name: ClassVar[str] = "broken"
    package: ClassVar[str] = "no_such_package"

    def __init__(self, at: str, error: Exception) -> None:
        self.at, self.error, self.calls = at, error, list[str]()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if name == self.at:
            raise self.error

    def start(self, facts: Facts) -> None:
        self._call("start")

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        self._call("log")

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        self._call("table")

    def close(self, status: str) -> None:
        self._call("close")


def test_a_tracker_that_fails_is_reported_once_and_left_alone(tmp_path: Path) -> None:
    messages: list[str] = []
    whole = Broken("", ValueError())
    broken = [Broken("start", ImportError()), Broken("start", OSError("disk")), Broken("log", ValueError("server\nx"))]
    trackers = Trackers([*broken, whole], Facts("run", tmp_path, {}), messages.append)
    for step in (1, 2):
        trackers.log(step, {"loss": 1.0})
    trackers.table("figures", ("a",), [(1.0,)])
    assert trackers.names == ["broken"]
    trackers.close("finished")
    assert messages == [
        "no no_such_package here: figures go to metrics.jsonl, not to broken",
        "warning: broken failed (OSError: disk); training goes on without it",
        "warning: broken failed (ValueError: server); training goes on without it",
    ]
    assert [tracker.calls for tracker in broken] == [["start"], ["start"], ["start", "log"]]
    assert whole.calls == ["start", "log", "log", "table", "close"]


def go(folder: Path, **changes: Any) -> Run:
    run = parse(Run, toys.config(folder, **changes))
    torch.set_num_threads(1)
    runs.execute(run)
    return run


@needs("tensorboard")
def test_a_run_tells_tensorboard_through_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with stopping_after(3, monkeypatch), pytest.raises(Stopped):
        go(tmp_path)
    run = go(tmp_path)
    shown = EventAccumulator(str(run.paths.folder / "tensorboard"))
    shown.Reload()
    points = [(point.step, point.value) for point in shown.Scalars("loss")]
    assert points == [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in toys.curve(run.paths.folder)]


def test_a_run_goes_on_without_its_trackers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    log_to = Broken("log", RuntimeError("gone"))
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)
    monkeypatch.setattr(report, "all_trackers", lambda: {**all_trackers(), "wandb": lambda: log_to})
    go(tmp_path, track=["tensorboard", "wandb"], max_steps=2)
    error = capfd.readouterr().err
    assert error.count("no tensorboard here") == 1 and error.count("wandb failed") == 0
    assert error.count("warning: broken failed (RuntimeError: gone)") == 1
