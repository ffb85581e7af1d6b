"""Code that lies beside data never runs: not through a command, nor through anything that a command starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.process import interpreter
from tests.pipelines.commands import LUIGI, PATH, environment
from tests.tail import late
from tests.trainers import toys

NAMES = [
    "pyarrow",
    "torch",
    "luigi",
    "polars",
    "duckdb",
    "numpy",
    "transformers",
    "tokenizers",
    "megatron",
    "psutil",
    "fsspec",
    "jinja2",
    "schemas",
    "datakit",
    "trainers",
    "pipelines",
    "socket",
    "selectors",
    "signal",
    "struct",
    "json",
    "runpy",
    "__future__",
    "typing",
    "sitecustomize",
    "usercustomize",
    "wandb",
    "tensorboard",
    "transformer_engine",
    "apex",
    "toy",
]
"""Of installed libraries, of ours, of Python's own, and of some that are not installed."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with data, and with modules that leave a mark when they run."""
    place = tmp_path / "data"
    place.mkdir()
    for name in NAMES:
        (place / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r} + ' ')\n")
    (place / "rows.jsonl").write_text('{"prompt": "a", "response": "b"}\n' * 3)
    return place


def ran(folder: Path, command: list[str], **more: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """How `command` ended in `folder`, and which of the planted modules ran."""
    given = {**environment(**more), "PYTHONPATH": more.get("PYTHONPATH", "")}
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, timeout=300, check=False)
    mark = folder.parent / "ran"
    return done, mark.read_text() if mark.exists() else ""


@pytest.mark.parametrize("module", ["run", "launch.spawn", *map(late, ("adopt", "export", "merge", "launch"))])
def test_a_module_of_ours_run_as_a_command(folder: Path, module: str) -> None:
    """Without `-P`: Python puts the folder first, and we take it out before the first import."""
    arguments = {"run": ["x.json"], "launch": ["x.json"], "launch.spawn": ["1", "trainers.run", "x.json"]}
    given = arguments.get(module, [".", "out"])
    kept = [name for name in ("trainers", "runpy") if name == "trainers" or not interpreter.HAS_SAFE_PATH]
    for name in kept:
        (folder / f"{name}.py").unlink()
    done, marks = ran(folder, [sys.executable, "-m", f"trainers.{module}", *given])
    assert done.returncode in (1, 2, 11), done.stderr
    assert "Traceback" not in done.stderr and marks == ""
    done, marks = ran(folder, interpreter.module(f"trainers.{module}", *given))
    assert done.returncode in (1, 2, 11) and marks == "", done.stderr


def test_luigis_command_and_the_workers_of_data_stages(folder: Path) -> None:
    more = ("--files", "rows.jsonl", "--format", "completions", "--workers", "2", "--quiver-processes", "2")
    done, marks = ran(folder, [str(LUIGI), "--module", "pipelines", "Import", *more])
    assert done.returncode == 0, done.stderr
    assert marks == ""
    (folder / "toy.py").unlink()
    paths = os.pathsep.join(PATH.split(os.pathsep))
    done, marks = ran(folder, [str(LUIGI), "--module", "toy", "Toy", "--quiver-processes", "2"], PYTHONPATH=paths)
    assert done.returncode == 0, done.stderr
    assert marks == ""


@pytest.mark.parametrize("ranks", ["1", late("2")])
def test_ranks_and_what_starts_them(folder: Path, ranks: str) -> None:
    path = toys.written(folder / "run.json", toys.config(folder, max_steps=2, epochs=...))
    done, marks = ran(folder, interpreter.module("trainers.launch", path, "--ranks", ranks))
    assert done.returncode == 0, done.stderr
    assert marks == ""


def test_a_reward_of_ones_own_is_named_and_brings_nothing_else(folder: Path) -> None:
    from datakit.clients.python import imported
    from pipelines.backends.function import place_of, reach

    (folder / "my_planted_reward.py").write_text("def score(response):\n    return [1.0 for _ in response]\n")
    here = Path.cwd()
    os.chdir(folder)
    try:
        assert place_of("my_planted_reward:score") == str(folder / "my_planted_reward.py")
        reach("my_planted_reward:score")
        assert imported("my_planted_reward:score")(["a"]) == [1.0]
        with pytest.raises(ImportError):
            __import__("apex")
    finally:
        os.chdir(here)
        sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__name__ != "_Beside"]
    assert not (folder.parent / "ran").exists()


def test_the_way_of_python_3_10(folder: Path) -> None:
    """There `-P` is not known: the folder is taken out by the first line that runs."""
    for name in () if interpreter.HAS_SAFE_PATH else ("sitecustomize", "usercustomize"):
        (folder / f"{name}.py").unlink()
    done, marks = ran(folder, interpreter.module("trainers.adopt", ".", "out", safe_path=False))
    assert done.returncode == 2 and marks == "", done.stderr
    (folder.parent / "said.py").write_text("import json, sys; print(json.dumps(sys.argv[1:]), __name__)")
    done, marks = ran(folder, [*interpreter.script(str(folder.parent / "said.py"), safe_path=False), "x"])
    assert (done.stdout, marks) == ('["x"] __main__\n', ""), done.stderr
    code = (
        "from multiprocessing import get_context\n"
        "from schemas.process.interpreter import safe_children\n"
        "if __name__ == '__main__':\n"
        "    with safe_children(safe_path=False):\n"
        "        child = get_context('forkserver').Process(target=print, args=('child',)); child.start()\n"
        "    child.join()\n"
        "    raise SystemExit(child.exitcode)"
    )
    (folder.parent / "starts.py").write_text(code)
    done, marks = ran(folder, interpreter.script(str(folder.parent / "starts.py")))
    assert (done.returncode, done.stdout, marks) == (0, "child\n", ""), done.stderr
