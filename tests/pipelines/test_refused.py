"""Refused before anything starts: places that cannot be, numbers that are none, a run that would end with nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from commands import PATH, environment, luigi

from datakit.formats.sources import digests_of
from quiver import console
from schemas import MESSAGES, PROMPTS, Dataset
from schemas.errors import ConfigError

NONE = pa.array([None], pa.string())
RUNS = """
import pipelines
from schemas.errors import QuiverError

CASES = [
    ("Import", {"workers": 0}), ("Import", {"workers": "two"}), ("Import", {"workers": 1.5}),
    ("Import", {"quiver_root": "memory://x"}), ("Import", {"files": "."}), (None, {}), (3, {}),
]
if __name__ == "__main__":
    for task, settings in CASES:
        try:
            pipelines.run(task, **(settings and {"files": "rows.jsonl", "format": "prompts", **settings}))
        except QuiverError as error:
            print(error.code, error.slug, error.what)
"""
REFUSED = [
    "2 bad-parameter workers: 0 is below 1, the least there can be",
    "2 bad-setting workers: 'two' is not a whole number",
    "2 bad-setting workers: '1.5' is not a whole number",
    "2 memory memory://x is gone as soon as this command ends",
    "2 not-a-file . is a folder",
    "2 unknown-task there is no task None",
    "2 unknown-task there is no task 3",
]
GONE = """
import os, shutil, sys
sys.argv[0] = "quiver"
from quiver.console import main
shutil.rmtree(os.getcwd())
main()
"""
VANISHING = """
import luigi, pipelines

class Vanishing(luigi.Task):
    looks = 0

    def complete(self):
        Vanishing.looks += 1
        return Vanishing.looks == 1
"""


def python(folder: Path, code: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *words],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def prompts(place: Path) -> Dataset:
    turns = [{"role": "user", "content": "a"}]
    columns = {"prompt_id": ["a"], "messages": pa.array([turns], MESSAGES), **dict.fromkeys(("tools", "answer"), NONE)}
    return Dataset.from_arrow(pa.table({**columns, "source": NONE}), PROMPTS, str(place))


def test_runs_from_python_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "program.py").write_text(RUNS)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == REFUSED, done.stderr
    assert not (tmp_path / "quiver-data" / "import").exists()


def test_workers_of_the_configuration_are_a_whole_number(tmp_path: Path) -> None:
    (tmp_path / "luigi.cfg").write_text("[core]\nworkers = abc\n")
    done = luigi(tmp_path, "Toy")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error[2/bad-setting]: workers: 'abc' is not a whole number\n")


def test_a_run_that_leaves_its_task_incomplete_is_no_success(tmp_path: Path) -> None:
    (tmp_path / "vanishing.py").write_text(VANISHING)
    done = luigi(tmp_path, "Vanishing", module="vanishing", PYTHONPATH=os.pathsep.join([PATH, str(tmp_path)]))
    assert done.returncode == 1, done.stderr
    assert "error[1/scheduling]: Vanishing ended before everything of it was made" in done.stderr


@pytest.mark.parametrize("words", [["show", "nope"], ["Import", "--files", "rows.jsonl", "--format", "prompts"]])
def test_a_working_folder_that_is_gone_is_named(words: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    done = python(folder, GONE, *words)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error[2/no-working-folder]: ") and "Traceback" not in done.stderr


def test_without_a_working_folder_whole_paths_work(tmp_path: Path) -> None:
    made = prompts(tmp_path / "answers")
    folder = tmp_path / "gone"
    folder.mkdir()
    shown = python(folder, GONE, "show", made.url)
    assert shown.returncode == 0 and "row 0" in shown.stdout, shown.stderr
    folder.mkdir()
    absent = python(folder, GONE, "show", str(tmp_path / "answer"))
    assert absent.returncode == 11 and "did you mean answers?" in absent.stderr, absent.stderr


def test_a_long_number_is_no_number_of_rows(tmp_path: Path) -> None:
    made, digits = prompts(tmp_path / "d"), "9" * 5000
    for words in (
        ["show", made.url, "--rows", digits],
        ["export", made.url, "--to", "trl", "--out", "x", "--max-rejected", digits],
    ):
        with pytest.raises(ConfigError, match="other words") as caught:
            console.run(words)
        assert caught.value.slug == "bad-parameter"


def test_an_export_into_memory_is_refused(tmp_path: Path) -> None:
    made = prompts(tmp_path / "d")
    with pytest.raises(ConfigError, match="gone as soon as this command ends") as caught:
        console.run(["export", made.url, "--to", "trl", "--out", "memory://a/rows.jsonl"])
    assert caught.value.slug == "memory"
    assert not Dataset.exists("memory://a")


def test_what_is_no_file_is_called_what_it_is(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("rows.jsonl")
    (tmp_path / "rows.jsonl").write_text("{}\n")
    assert digests_of((str(tmp_path / "link"),)) == digests_of((str(tmp_path / "rows.jsonl"),))
    for place, words in ((tmp_path, "is a folder"), (tmp_path / "pipe", "is a pipe"), (Path("/dev/null"), "a device")):
        with pytest.raises(ConfigError, match=words) as caught:
            digests_of((str(place),))
        assert caught.value.slug == "not-a-file"
    reading, writing = os.pipe()
    try:
        with pytest.raises(ConfigError, match="is a pipe"):
            digests_of((f"/dev/fd/{reading}",))
    finally:
        os.close(reading)
        os.close(writing)
