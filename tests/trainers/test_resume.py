"""A run that is interrupted, wherever, and started again is the run that nobody interrupted.

26 points (24 places x signals x layouts, and two more at two ranks): at the same layout the rest of the curve, the rows
of every step and the final weights are bit for bit those of the undisturbed run; at another layout the curve agrees to
1e-5. `QUIVER_RESUME_SEED` draws other points. Most of them are the tail's: `make test` plays each place
with SIGKILL, in one process or from layout to layout by turns, two places with SIGTERM, and the two at two ranks.
"""

from __future__ import annotations

import json
import os
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from schemas.store.commit import read_manifest
from tests.tail import late
from tests.trainers import toys
from tests.trainers.interruptions import LAYOUTS, PLACES, STEPS, Point, points
from tests.warm.command import launched

SEED = int(os.environ.get("QUIVER_RESUME_SEED", "0"))
POINTS = points(SEED)
STOPPED = ("mid-epoch", "saving")
"""Where `make test` stops a run by SIGTERM too."""
LATE = {
    number
    for number in range(24)
    if number % 4 in ((1, 2) if number // 4 % 2 else (0, 3))
    or (POINTS[number].name == "SIGTERM" and POINTS[number].place not in STOPPED)
}
EXACT = ("epoch", "rows", "tokens", "lr", "step")


PLAYS = "::test_an_interrupted_run_goes_on["
Played: TypeAlias = tuple[Path, dict[int, dict[str, Any]]]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Played:
    """What came of the points that this session tests."""
    folder = tmp_path_factory.mktemp("resume")
    toys.config(folder)
    asked = {item.callspec.params["point"].number for item in request.session.items if PLAYS in item.nodeid}
    print(f"seed {SEED}:", *POINTS, sep="\n  ")
    launched(1, "tests.trainers.interruptions", folder, SEED, *sorted(asked), timeout=600)
    answers = json.loads((folder / "answers.json").read_text())
    assert all(set(answer["codes"]) == {0} for answer in answers if "undisturbed" in answer), answers
    return folder, {answer["point"]["number"]: answer for answer in answers if "point" in answer}


def test_the_points_are_as_many_as_promised() -> None:
    assert len({(point.place, point.name, point.before == point.after == "1") for point in POINTS[:24]}) == 24
    assert len(set(POINTS)) == 26
    soon = [point for point in POINTS if point.number not in LATE]
    every = {*product(PLACES, ["SIGKILL"]), *product(STOPPED, ["SIGTERM"])}
    assert len(soon) == 10 and {(point.place, point.name) for point in soon} == every
    assert {point.before == point.after for point in soon if point.name == "SIGKILL"} == {True, False}


@pytest.mark.parametrize(
    "point",
    [late(point) if point.number in LATE else point for point in POINTS],
    ids=[f"{p.place}-{p.name}-{p.before}-{p.after}" for p in POINTS],
)
def test_an_interrupted_run_goes_on(played: Played, point: Point) -> None:
    folder, answers = played
    work, log = folder / str(point.number), (folder / str(point.number) / "log").read_text()
    first, second = answers[point.number]["codes"]
    done = point.place in ("last step", "publishing")
    if point.name == "SIGKILL":
        assert first[point.rank] == -9, (str(point), first, log)
    else:
        assert set(first) == ({0} if done else {75}), (str(point), first, log)
    assert set(second) == {0}, (str(point), second, log)
    assert "Traceback" not in log, log
    undisturbed = folder / f"undisturbed {point.after if point.before == point.after else '1'}"
    assert rows(work) == rows(undisturbed), str(point)
    if point.before == point.after:
        assert curve(work) == curve(undisturbed), str(point)
        assert digest(work) == digest(undisturbed), str(point)
    else:
        close(curve(work), curve(undisturbed), point)
    saves = work / "policy.run" / "saves"
    assert not saves.exists()


def curve(work: Path) -> list[dict[str, Any]]:
    """The curve without what depends on the clock and on how batches are cut."""
    clock = ("seconds", "wait_seconds", "tokens_per_second", "padding", "mfu")
    lines = toys.curve(work / "policy.run")
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    return [{name: value for name, value in line.items() if name not in clock} for line in lines]


def rows(work: Path) -> list[dict[str, Any]]:
    return toys.row_log(work / "policy.run")


def digest(work: Path) -> Any:
    manifest = read_manifest(str(work / "policy"))
    assert manifest is not None
    return manifest.facts["weights_digest"]


def close(actual: list[dict[str, Any]], expected: list[dict[str, Any]], point: Point) -> None:
    for one, other in zip(actual, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in other.items():
            if name in EXACT:
                assert one[name] == value, (str(point), name)
            else:
                assert one[name] == pytest.approx(value, rel=1e-5), (str(point), name, one["step"])


def test_layouts_are_what_they_are_called() -> None:
    assert {name: world for name, (world, _) in LAYOUTS.items()}["DP2 dealt"] == 2
