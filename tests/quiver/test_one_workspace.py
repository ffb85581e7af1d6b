"""What words mean to commands over a workspace, and that what they print to do next stays in it."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from quiver import console
from schemas import SAMPLES
from schemas.errors import ConfigError, QuiverError
from tests.datakit.catalog.workspaces import REWARDED, Maker, rewarded, samples
from tests.quiver.answers import answer

pytestmark = pytest.mark.usefixtures("activated")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Samples, and two variants of their rewards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    make, rows = Maker(tmp_path / "quiver-data"), samples(60)
    first = make("rest/digits/iter=1/samples-00000001", SAMPLES, rows, op="generate.complete")
    scored = rewarded(rows, [float(number) for number in range(60)])
    make("rest/digits/iter=1/rewards-00000001", REWARDED, scored, first, op="label.reward")
    make("rest/digits/iter=1/rewards-00000002", REWARDED, scored[:5], first, op="label.reward")
    return make


@pytest.mark.parametrize("command", ["show", "ls", "du", "lineage", "diff rest/digits/iter=1/samples"])
def test_a_place_is_meant_however_it_is_written(
    command: str, workspace: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    """As seen from the root, from here, from anywhere; of an older variant too."""
    place = "rest/digits/iter=1/rewards-00000001"
    asked = [place, f"{place}/", f"./{place}", f"quiver-data/{place}", f"./quiver-data/{place}", workspace.root / place]
    first, *others = (answer(capsys, *command.split(), str(word)) for word in asked)
    assert "60" in first or command == "du"
    assert {*others} == {first}


def test_a_name_that_is_none_is_refused_as_one(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("rest\n", "s3://bucket/rest", "../rest", "quiver-data/rets", "."):
        for command in ("ls", "du", "lineage"):
            with pytest.raises(ConfigError, match="nothing is called"):
                console.run([command, word])


ELSEWHERE = [
    ("sql 'FROM sample'", "quiver sql 'FROM samples' --root elsewhere"),
    ("sql 'FROM other'", "quiver sql \"SELECT DISTINCT view FROM columns\" --root elsewhere"),
    ("ls rets", "quiver ls --root elsewhere"),
    ("diff rest/digits rets", "quiver ls --root elsewhere"),
    ("show rest/digits", "quiver ls rest/digits --root elsewhere"),
    ("show rest/digits/iter=1/reward", "quiver show rest/digits/iter=1/rewards --root elsewhere"),
    ("why nobody --key sample_id",
     'quiver sql "SELECT sample_id, value FROM rewards ORDER BY value LIMIT 5" --root elsewhere'),
    ("sql a b", 'quiver sql "SELECT DISTINCT view FROM columns" --root elsewhere'),
    ("ls --al", "quiver ls --help"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "following"), ELSEWHERE)
def test_what_is_next_is_next_in_the_same_workspace(
    given: str, following: str, workspace: Maker, tmp_path: Path
) -> None:
    workspace.root.rename(tmp_path / "elsewhere")
    with pytest.raises(QuiverError) as caught:
        console.run([*shlex.split(given), "--root", "elsewhere"])
    assert caught.value.next == following
    if "--help" not in following:
        console.run(shlex.split(following)[1:])


@pytest.mark.parametrize("command", ["du", "prune", "prune --runs", "catalog"])
def test_an_answer_goes_on_in_the_same_workspace(
    command: str, workspace: Maker, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Above all `prune`, whose next command removes."""
    workspace.root.rename(tmp_path / "there and")
    text = answer(capsys, *command.split(), "--root=there and")
    [line] = [one for one in text.splitlines() if one.startswith("next: ")]
    words = shlex.split(line.removeprefix("next: "))
    assert words[-2:] == ["--root", "there and"] and ("--runs" in words) == ("--runs" in command)
    assert console.run(words[1:]) == 0
