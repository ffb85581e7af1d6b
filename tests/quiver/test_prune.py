"""`quiver prune` and `quiver du`: what goes, what never goes, and a workspace that works whenever a removal ends."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datakit.catalog import prune
from datakit.catalog.workspace import read_workspace
from quiver import console
from schemas import SAMPLES, Dataset
from schemas.display import human_bytes
from schemas.errors import ConfigError, ConflictError
from schemas.manifest import Parent
from schemas.store.commit import begin_attempt
from schemas.store.in_use import in_use
from tests.datakit.catalog.workspaces import REWARDED, Maker, rewarded, samples
from tests.quiver.answers import answer

RUN = "rest/own/iter=1"


def rewards(make: Maker, variant: str, drawn: Dataset, count: int) -> Dataset:
    rows = rewarded(samples(9), [1.0] * 9)[:count]
    return make(f"{RUN}/rewards-{variant}", REWARDED, rows, drawn, op="label.reward")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    """Two variants of rewards and of what was kept of them; samples on which both stand, and others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    make = Maker(tmp_path / "quiver-data")
    prompts = make(f"{RUN}/prompts-00000001", SAMPLES, samples(1))
    make(f"{RUN}/samples-00000009", SAMPLES, samples(3), prompts, op="generate.complete")
    drawn = make(f"{RUN}/samples-00000001", SAMPLES, samples(9), prompts, op="generate.complete")
    for variant, count in (("0000000a", 5), ("0000000b", 9)):
        scored = rewards(make, variant, drawn, count)
        make(f"{RUN}/kept-{variant}", REWARDED, rewarded(samples(2), [1.0] * 2), scored, op="filter.where")
    return make


def places(make: Maker) -> set[str]:
    return {one.place.removeprefix(f"{RUN}/") for one in read_workspace(str(make.root)).entries}


LAST = {"prompts-00000001", "samples-00000001", "rewards-0000000b", "kept-0000000b"}
ALL = LAST | {"samples-00000009", "rewards-0000000a", "kept-0000000a"}


def test_older_variants_are_listed_and_go_with_yes_alone(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    text = answer(capsys, "prune")
    assert max(map(len, text.splitlines())) <= 80
    assert places(workspace) == ALL and "would be freed; nothing was removed" in text
    listed = {
        one["place"].removeprefix(f"{RUN}/"): one["goes"] for one in json.loads(answer(capsys, "prune", "--json"))
    }
    assert {place for place, goes in listed.items() if goes} == ALL - LAST
    assert "freed" in answer(capsys, "prune", "--yes")
    assert places(workspace) == LAST
    assert not [*workspace.root.rglob("_pruned-*")]
    assert "nothing goes" in answer(capsys, "prune", "--yes")
    assert Dataset.open(str(workspace.root / RUN / "kept-0000000b")).read().num_rows == 2


def test_what_a_last_run_stands_on_stays_even_where_it_is_an_older_variant(
    workspace: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    older = Dataset.open(str(workspace.root / RUN / "rewards-0000000a"))
    workspace("other/own/pairs-0000000c", REWARDED, rewarded(samples(1), [1.0]), older, op="blend.pair")
    answer(capsys, "prune", "--yes")
    assert "rewards-0000000a" in places(workspace) and "kept-0000000a" not in places(workspace)


def test_what_was_made_of_nothing_here_stays_and_what_was_made_by_hand(
    workspace: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    """No task of this workspace can make it again: an imported file or model, rows of a notebook."""
    drawn = Dataset.open(str(workspace.root / RUN / "samples-00000009"))
    for op, parents in (("io.jsonl", ()), ("adopt", ()), ("notebook.rows", (drawn,)), ("filter.where", (drawn,))):
        for variant in "ab":
            workspace(f"own/{op}-0000000{variant}", SAMPLES, samples(2), *parents, op=op)
    answer(capsys, "prune", "--yes")
    left = {one for one in places(workspace) if one.endswith("a") and one.startswith("own/")}
    assert left == {"own/io.jsonl-0000000a", "own/adopt-0000000a", "own/notebook.rows-0000000a"}


def test_nothing_goes_where_a_manifest_cannot_be_read(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    (workspace.root / RUN / "kept-0000000b" / "_manifest.json").write_text("{")
    assert "cannot be read, which may stand on it" in " ".join(answer(capsys, "prune", "--yes").split())
    assert places(workspace) == ALL - {"kept-0000000b"}


def test_nothing_goes_while_a_run_is_at_work(workspace: Maker) -> None:
    with in_use(str(workspace.root)), pytest.raises(ConflictError, match="a run is at work"):
        console.run(["prune", "--yes"])
    training = workspace.root / RUN / "policy-0000000d.run"
    training.mkdir()
    number = os.open(training, os.O_RDONLY)
    fcntl.flock(number, fcntl.LOCK_EX)
    with pytest.raises(ConflictError, match="a run is at work"):
        console.run(["prune", "--yes"])
    os.close(number)
    attempt = begin_attempt(str(workspace.root / RUN / "new-0000000e"))
    with pytest.raises(ConflictError, match="a run is at work"):
        console.run(["prune", "--yes"])
    assert places(workspace) == ALL and (workspace.root / RUN / "new-0000000e" / attempt).is_dir()


def test_attempts_of_the_dead_go(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    left = workspace.root / RUN / "new-0000000e"
    code = f"from schemas.store.commit import begin_attempt; begin_attempt({str(left)!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    inside = workspace.root / RUN / "kept-0000000b" / "_attempt-0123456789abcdef"
    inside.mkdir()
    (inside / "part").write_bytes(b"x" * 1000)
    assert any(one.name.startswith("_attempt-") for one in left.iterdir())
    answer(capsys, "prune", "--yes")
    assert not left.exists() or not [*left.iterdir()]
    assert not inside.exists() and places(workspace) == LAST


def test_saves_of_the_finished_go_and_figures_with_a_flag(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    for name, of in (("kept-0000000b", True), ("policy-0000000f", False)):
        save = workspace.root / RUN / f"{name}.run" / "saves" / "step-1"
        save.mkdir(parents=True)
        (save / "weights").write_bytes(b"w" * 5000)
        (save.parent.parent / "metrics.jsonl").write_text("{}\n")
        assert of == (workspace.root / RUN / name).is_dir()
    answer(capsys, "prune", "--yes")
    finished, unfinished = (workspace.root / RUN / f"{one}.run" for one in ("kept-0000000b", "policy-0000000f"))
    assert not (finished / "saves").exists() and (finished / "metrics.jsonl").is_file()
    assert (unfinished / "saves/step-1/weights").is_file()
    answer(capsys, "prune", "--yes", "--runs")
    assert not finished.exists() and unfinished.exists()


class Hostile:
    """A parent at a place of one's choice, as a manifest may name it."""

    def __init__(self, url: str) -> None:
        self.url = url

    def as_parent(self, name: str) -> Parent:
        return Parent(name, self.url, "0" * 64, "0" * 64)


def test_no_manifest_and_no_link_leads_it_outside(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    outside = workspace.root.parent / "outside"
    (outside / "deep-0000000a").mkdir(parents=True)
    (outside / "precious").write_text("mine")
    older = workspace.root / RUN / "kept-0000000a"
    (older / "link").symlink_to(outside)
    (older / "file").symlink_to(outside / "precious")
    (workspace.root / RUN / "linked-0000000a").symlink_to(outside)
    (workspace.root / "_pruned-0123456789abcdef").symlink_to(outside)
    hostile: Any = Hostile(str(outside / "deep-0000000a"))
    workspace(f"{RUN}/more-0000000a", SAMPLES, samples(1), hostile, op="filter.where")
    workspace(f"{RUN}/more-0000000b", SAMPLES, samples(1), hostile, op="filter.where")
    answer(capsys, "prune", "--yes")
    assert {"more-0000000b"} == {one for one in places(workspace) if one.startswith("more")}
    assert not older.exists() and (outside / "precious").read_text() == "mine"
    assert (workspace.root / RUN / "linked-0000000a").is_symlink()
    for place in ("../outside", f"{RUN}/linked-0000000a/deep-0000000a", f"{RUN}/linked-0000000a"):
        with pytest.raises(Exception, match=r"(?i)link|not a directory|no place below|too many levels"):
            prune._removed(str(workspace.root), place, hidden=False)
    assert (outside / "deep-0000000a").is_dir()


@pytest.mark.parametrize("calls", [1, 2, 4, 7])
def test_a_kill_in_the_middle_leaves_a_workspace_that_works(
    workspace: Maker, capsys: pytest.CaptureFixture[str], calls: int
) -> None:
    """The process ends at the n-th system call that removes something."""
    code = (
        "import os\n"
        f"left = [{calls}]\n"
        "def ending(call):\n"
        "    def until(*given, **named):\n"
        "        left[0] -= 1\n"
        "        if not left[0]: os._exit(9)\n"
        "        return call(*given, **named)\n"
        "    return until\n"
        "os.unlink, os.rmdir, os.rename = ending(os.unlink), ending(os.rmdir), ending(os.rename)\n"
        "from quiver import console\n"
        "console.run(['prune', '--yes'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    workspace_now = read_workspace(str(workspace.root))
    assert not workspace_now.unreadable and not [one for one in workspace_now.entries if one.damage]
    assert places(workspace) >= LAST
    answer(capsys, "prune", "--yes")
    assert places(workspace) == LAST and not [*workspace.root.rglob("_pruned-*")]


def test_freed_bytes_are_those_of_files_without_another_name(
    workspace: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    older = workspace.root / RUN / "samples-00000009" / "part-00000.parquet"
    os.link(older, workspace.root / "second")
    answer(capsys, "ls")
    before = sum(one.stat().st_size for one in workspace.root.rglob("*") if one.is_file() and one.stat().st_nlink == 1)
    text = answer(capsys, "prune", "--yes").splitlines()[-1]
    after = sum(one.stat().st_size for one in workspace.root.rglob("*") if one.is_file() and one.stat().st_nlink == 1)
    gone = before - after + older_size(workspace)
    assert text == f"{human_bytes(gone)} freed"


def older_size(make: Maker) -> int:
    """What counts as fresh since its other name has gone."""
    return (make.root / "second").stat().st_size


def test_du_counts_every_byte_once(workspace: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    answer(capsys, "ls")
    text = answer(capsys, "du")
    assert max(map(len, text.splitlines())) <= 80
    listed = json.loads(answer(capsys, "du", "--json"))
    files = [one for one in workspace.root.rglob("*") if one.is_file()]
    assert sum(one["bytes"] for one in listed) == sum(one.stat().st_size for one in files)
    assert {one["place"].removeprefix(f"{RUN}/") for one in listed if one["last_run"]} == LAST
    assert len(json.loads(answer(capsys, "du", f"{RUN}/kept", "--json"))) == 2
    with pytest.raises(ConfigError, match="nothing is called") as caught:
        console.run(["du", "rest/own/iter=2"])
    assert caught.value.nearest == RUN
