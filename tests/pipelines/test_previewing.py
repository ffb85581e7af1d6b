"""`--preview N`: a command over a few rows, in a workspace that goes in the end; the real one stays as it was."""

from __future__ import annotations

import json
import os
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import LUIGI, REST, alive_in, digests, environment, luigi, started
from small_model import write

import pipelines
from datakit.blend import Mix
from datakit.filter import Where, Window
from datakit.preview import MadeUp
from pipelines.commands import previewing
from pipelines.commands.small_graph import Small, is_beside, is_made_up
from pipelines.graph.nodes import Table, TrainedCheckpoint
from pipelines.graph.order import ordered
from pipelines.graph.plan import Plan
from pipelines.graph.resolve import rows_at
from pipelines.online.node import OnlineCheckpoint
from pipelines.recipes import Grpo, RestIteration
from pipelines.runtime import settings
from pipelines.runtime.command import run
from pipelines.runtime.tasks import complete
from schemas.errors import ConfigError

ROWS = [{"prompt": f"q {number}", "response": "a" * number} for number in range(1, 31)]
SCORED = "--op reward --model bad_reward:score --data rows.jsonl"
WHERE = """--op where --params '{"predicate": "length(response) > 3"}'"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Rows and a model, and a folder of its own for what is temporary."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["quiver"])
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(previewing.tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    write(tmp_path / "model")
    return tmp_path


def previewed(capsys: pytest.CaptureFixture[str], given: str) -> str:
    capsys.readouterr()
    run(["--module", "pipelines", *shlex.split(given)])
    return capsys.readouterr().out


def left(folder: Path) -> list[Path]:
    """Workspaces of previews that are there still."""
    return list((folder / "tmp").glob("quiver-preview-*"))


def tree(folder: Path) -> dict[Path, int]:
    return {one: one.stat().st_mtime_ns for one in (folder / "quiver-data").rglob("*")}


def test_rows_of_every_stage_are_printed_and_nothing_stays(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows are read and filtered whole, and cut behind that: of 30 answers 27 are longer than 3 characters."""
    text = previewed(capsys, "Label --data rows.jsonl --op length --preview")
    assert "10 rows of each input" in text and "(preview)" in text and "response_characters: 1" in text
    assert "30 rows" in text and "10 rows" in text and max(map(len, text.splitlines())) <= 80
    assert not Path("quiver-data").exists() and not left(folder)
    assert "27 rows, 3 set aside" in previewed(capsys, f"Filter --data rows.jsonl {WHERE} --preview 2")
    assert not Path("quiver-data").exists() and not left(folder)


def test_what_is_there_is_read_and_stays_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pipelines.run("Filter", data="rows.jsonl", op="where", params={"predicate": "length(response) > 3"})
    before, files = digests(folder), tree(folder)
    text = previewed(capsys, """Filter --data rows.jsonl --op where --params '{"predicate": "true"}' --preview 3""")
    assert "(there already)" in text and "(preview)" in text
    assert digests(folder) == before and tree(folder) == files and not left(folder)


def test_a_stage_that_fails_leaves_nothing_either(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "bad_reward.py").write_text("def score(response):\n    raise ValueError('not today')\n")
    with pytest.raises(SystemExit) as ended:
        run(
            [
                "--module",
                "pipelines",
                *shlex.split(f"Label {SCORED} --preview 2"),
            ]
        )
    printed = " ".join(capsys.readouterr().err.split())
    assert ended.value.code == 10 and "not today" in printed and "nothing is kept of a preview" in printed
    assert "quiver-preview-" not in printed.partition("error[")[2]
    assert not Path("quiver-data").exists() and not left(folder)


def test_a_fault_of_the_plan_is_that_of_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["--module", "pipelines", *shlex.split("Sft --model model --data absent.jsonl --preview 2")])
    assert ended.value.code == 2 and "no-such-file" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="command line"):
        pipelines.run("Sft", model="model", data="rows.jsonl", preview=3)


def test_the_graph_in_small(folder: Path) -> None:
    """Of the embedded recipe: models have two steps, what models and templates read is cut, shares are whole."""
    recipe = RestIteration(iteration=2)
    targets = recipe.build(Plan("quiver-data"))
    small = ordered(Small(str(folder / "small"), 10, set()).of(targets))
    assert all(node.url.startswith(str(folder / "small")) and not complete(node) for node in small)
    trainings = [node for node in small if isinstance(node, TrainedCheckpoint)]
    assert len(trainings) == 6 and {node.training.learning.max_steps for node in trainings} == {2}
    assert all(isinstance(node.data, Table) and isinstance(node.data.op, MadeUp) for node in trainings)
    kinds = {node.label: node for node in small if isinstance(node, Table)}
    assert "digits/prompts.first-10" not in kinds
    texts = kinds["rest/digits/iter=1/prompts.texts"].inputs[0]
    assert texts.label == "rest/digits/iter=1/prompts.first-10" and is_beside(texts)
    assert kinds["digits/tokenizer"].inputs[0].label == "digits/demonstrations.first-1000"
    assert len({node.url for node in small}) == len(small)
    labels = {node.label for node in ordered(targets)}
    assert {node.label for node in small if not is_beside(node)} >= labels


def test_an_online_run_in_small_asks_few_prompts(folder: Path) -> None:
    targets = Grpo().build(Plan("quiver-data"))
    [policy] = [one for one in ordered(Small("small", 4, set()).of(targets)) if isinstance(one, OnlineCheckpoint)]
    assert policy.step.prompts == 4 and policy.training.learning.max_steps == 2
    assert policy.training.learning.global_batch_size == 4 * 8 and policy.init is not None
    assert policy.init.root == "small"


def test_what_is_there_is_not_small_and_mixtures_take_cut_parts(folder: Path) -> None:
    plan = Plan("quiver-data")
    one, two = (rows_at(plan, "rows.jsonl", "completions", label) for label in ("one", "two"))
    chosen = plan.table("chosen", Where(predicate="length(response) > 3"), one)
    mixed = plan.table("mixed", Mix(sources=("a", "b"), weights=(0.5, 0.5)), chosen, two)
    [small] = Small("small", 5, {id(two)}).of([mixed])
    assert isinstance(small, Table)
    cut = [given.op for given in small.inputs if isinstance(given, Table)]
    assert cut == [Window(limit=5)] * 2
    assert small.inputs[1].parents["input"] is two and small.inputs[0].parents["input"].root == "small"
    assert is_made_up(mixed) is None


def test_a_root_of_its_own_holds_for_a_while() -> None:
    root = settings.quiver_config().root
    with settings.below("elsewhere"):
        assert settings.quiver_config().root == "elsewhere" and settings.quiver_config().workers == 1
    assert settings.quiver_config().root == root


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_whole_recipe_before_and_behind_a_run(folder: Path) -> None:
    """From nothing, with made-up pairs where a policy of two steps has nothing right; behind an iteration, whose models
    are read; each leaves the workspace as it was.
    """
    temporary = {"TMPDIR": str(folder / "tmp")}
    first = luigi(folder, *REST, "--preview", "10", module="pipelines", **temporary)
    assert first.returncode == 0, first.stderr
    assert "digits/policy  (preview)" in first.stdout and "step 2" in first.stdout and "reward:" in first.stdout
    assert not (folder / "quiver-data").exists() and not left(folder)
    assert luigi(folder, *REST, module="pipelines", **temporary).returncode == 0
    before, files = digests(folder), tree(folder)
    second = luigi(folder, *REST, "--thresholds", "[0.4]", "--preview", "4", module="pipelines", **temporary)
    assert second.returncode == 0, second.stderr
    assert "digits/policy  (there already)" in second.stdout and "step=1/kept  (preview)" in second.stdout
    assert digests(folder) == before and tree(folder) == files and not left(folder)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ten_rows_of_the_embedded_default_take_a_minute_at_most(tmp_path: Path) -> None:
    """Of a processor, which is what it takes on a machine that is at nothing else; on such a one on the clock, too."""
    others, since = os.getloadavg()[0], time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [str(LUIGI), "--module", "pipelines", "RestIteration", "--preview", "10"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
    after, clock = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - since
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert done.returncode == 0, done.stderr
    assert "rest/digits/iter=1/step=2/policy  (preview)" in done.stdout and list(tmp_path.iterdir()) == []
    print(f"preview of ten rows: {seconds:.1f} s of work, {clock:.1f} s on the clock")
    assert seconds <= 60
    assert clock <= 60 or others > 1


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_is_stopped_leaves_nothing(
    folder: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")  # so that nothing that works in the folder is this test
    process = started(folder, *REST, "--preview", "10", module="pipelines", TMPDIR=str(folder / "tmp"))
    until = time.monotonic() + 200
    while not list((folder / "tmp").rglob("*.run/logs")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.1)
    process.send_signal(number)
    _, printed = process.communicate(timeout=90)
    assert process.returncode == 75 and "nothing is kept of a preview" in printed, printed
    assert not left(folder) and not (folder / "quiver-data").exists()
    assert not alive_in(folder)
