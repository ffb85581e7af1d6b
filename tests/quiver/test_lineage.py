"""`quiver lineage`: each result behind what it was made of, and the same as OpenLineage events."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import uuid
from pathlib import Path

import pytest

from quiver import console
from schemas import SAMPLES
from schemas.errors import ConfigError, QuiverError
from tests.datakit.catalog.workspaces import REWARDED, Maker, rewarded, samples
from tests.quiver.answers import answer

pytestmark = pytest.mark.usefixtures("activated")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two branches from one file, of which one is read further; a name that steers terminals."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    root = tmp_path / "quiver-data"
    root.mkdir()
    make, rows = Maker(root), samples(4)
    file = make("rest/x/file-00000001", SAMPLES, rows, op="io.jsonl")
    drawn = make("rest/x/iter=1/samples-00000002", SAMPLES, rows, file, op="generate.complete")
    make("rest/x/iter=1/\u202eother-00000003", SAMPLES, rows, file, op="filter.where")
    scored = rewarded(rows, [0.0, 1.0, 2.0, 3.0])
    make("rest/x/iter=1/rewards-00000004", REWARDED, scored, drawn, op="label.reward")
    return root


def test_a_result_stands_behind_what_it_was_made_of(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in answer(capsys, "lineage", "rest/x/iter=1/rewards").splitlines()]
    assert lines == [
        ["1", "rest/x/file", "io.jsonl:", "4", "rows"],
        ["2", "rest/x/iter=1/samples", "generate.complete", "of", "1:", "4", "rows"],
        ["3", "rest/x/iter=1/rewards", "label.reward", "of", "2:", "4", "rows"],
    ]
    every = answer(capsys, "lineage")
    assert len(every.splitlines()) == 4 and "\u202e" not in every and "other" in every
    with pytest.raises(QuiverError, match="rest/x/iter=1/reward") as fault:
        console.run(["lineage", "rest/x/iter=1/reward"])
    assert fault.value.nearest == "rest/x/iter=1/rewards"


def test_what_was_made_again_stands_before_what_was_made_of_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Though it is the youngest of all: its first folder was removed."""
    (file,) = root.glob("rest/x/file-*")
    shutil.rmtree(file)
    Maker(root, clock=30)("rest/x/file-00000001", SAMPLES, samples(4), op="io.jsonl")
    lines = [line.split() for line in answer(capsys, "lineage").splitlines()]
    assert lines[0][:2] == ["1", "rest/x/file"] and len(lines) == 4
    above = {int(line[0]): int(line[line.index("of") + 1].strip(":")) for line in lines if "of" in line}
    assert len(above) == 3 and all(parent < own for own, parent in above.items())


def test_the_library_is_asked_for_by_its_extra(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openlineage.client.serde", None)
    with pytest.raises(ConfigError, match="openlineage-python, which is not installed") as fault:
        console.run(["lineage", "--openlineage"])
    assert "[lineage]" in fault.value.next


@pytest.mark.skipif(importlib.util.find_spec("openlineage") is None, reason="openlineage-python is not installed")
def test_events_have_what_went_in_and_what_came_out(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = answer(capsys, "lineage", "rest/x/iter=1/rewards", "--openlineage")
    assert printed == answer(capsys, "lineage", "rest/x/iter=1/rewards", "--openlineage"), "the same at every call"
    first, second, last = map(json.loads, printed.splitlines())
    assert [one["eventType"] for one in (first, second, last)] == ["COMPLETE"] * 3 and not first["inputs"]
    [given], [made] = last["inputs"], last["outputs"]
    assert given["name"] == second["outputs"][0]["name"] == f"{root}/rest/x/iter=1/samples-00000002"
    assert last["job"]["name"] == "rest/x/iter=1/rewards" and made["namespace"] == "file"
    assert last["job"]["facets"]["jobType"]["jobType"] == "label.reward"
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == 4
    fields = {one["name"]: one["type"] for one in made["facets"]["schema"]["fields"]}
    assert fields["reward"] == "DOUBLE" and fields["response"] == "VARCHAR"
    assert len({uuid.UUID(one["run"]["runId"]) for one in (first, second, last)}) == 3
