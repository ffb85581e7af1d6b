"""`setup.sh` on a machine without a GPU: which PyTorch it asks for, and what it says when there is none to be had."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import tomllib

from schemas import installed

ROOT = Path(__file__).resolve().parents[1]


def checkout(folder: Path) -> Path:
    """A checkout's set-up files, on a machine whose `nvidia-smi` sees nothing."""
    for name in ("setup.sh", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    (folder / "bin").mkdir()
    (folder / "bin" / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (folder / "bin" / "nvidia-smi").chmod(0o755)
    return folder


@contextmanager
def listening() -> Iterator[tuple[str, list[str]]]:
    """The address of a proxy that connects nobody, and the first line of every request that it got."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    asked.append(connection.recv(4096).split(b"\r\n")[0].decode())
                    connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked


class Made(NamedTuple):
    """A first set-up without any index: where, what it said, and whom it asked."""

    place: Path
    run: subprocess.CompletedProcess[str]
    asked: list[str]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    place = checkout(tmp_path_factory.mktemp("first"))
    with listening() as (address, asked):
        return Made(place, set_up(place, PIP_NO_INDEX="1", HTTPS_PROXY=address), asked)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return checkout(tmp_path)


@pytest.fixture
def begun(project: Path, made: Made) -> Path:
    """A checkout whose virtual environment was made, and holds nothing yet."""
    shutil.copytree(made.place / ".venv", project / ".venv", symlinks=True)
    return project


@pytest.fixture
def proxy() -> Iterator[tuple[str, list[str]]]:
    with listening() as both:
        yield both


def set_up(project: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(("PIP_", "PYTORCH_"))}
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        kept.pop(name, None)
        kept.pop(name.upper(), None)
    path = f"{project / 'bin'}:{os.environ['PATH']}"
    given = {**kept, "PATH": path, "PYTHON": sys.executable, "PIP_CONFIG_FILE": os.devnull, **environment}
    command = ["bash", "setup.sh"]
    return subprocess.run(command, check=False, cwd=project, env=given, capture_output=True, text=True, timeout=120)


def test_the_index_that_pytorch_documents_is_asked_when_pips_own_has_no_cpu_build(
    begun: Path, proxy: tuple[str, list[str]]
) -> None:
    address, asked = proxy
    (begun / "index" / "torch").mkdir(parents=True)
    (begun / "index" / "torch" / "index.html").write_text("<html><body></body></html>")
    run = set_up(begun, PIP_INDEX_URL=(begun / "index").as_uri(), HTTPS_PROXY=address, PIP_RETRIES="0", PIP_TIMEOUT="2")
    assert asked and {line.split()[1] for line in asked} == {"download.pytorch.org:443"}
    assert run.returncode == 2
    lines = run.stderr.splitlines()
    assert len(lines) == 5 and lines[0].startswith("error[2/set-up]: PyTorch could not be downloaded")
    assert "download.pytorch.org/whl/cpu" in lines[0] and "PIP_FIND_LINKS" in lines[4]
    assert "downloading" in run.stdout and "about 200 MB" in run.stdout and "CUDA" not in run.stdout


def test_without_any_index_nothing_else_is_tried(made: Made) -> None:
    assert made.run.returncode == 2 and not made.asked
    assert len(made.run.stderr.splitlines()) == 5
    assert "virtual environment .venv" in made.run.stdout
    assert (made.place / ".venv" / "pyvenv.cfg").is_file() and not list((made.place / ".venv").glob(".set-up-*"))


def test_a_python_that_is_none_is_named(project: Path) -> None:
    run = set_up(project, PYTHON="/nope/python9")
    assert (run.returncode, run.stdout) == (2, "") and not (project / ".venv").exists()
    lines = run.stderr.splitlines()
    assert len(lines) == 5 and lines[0] == "error[2/set-up]: no suitable Python"
    assert lines[1:3] == ["  expected: 3.10 to 3.13   found: none", "  where: PYTHON=/nope/python9"]


def test_without_a_network_pip_gives_up_after_three_tries(begun: Path, proxy: tuple[str, list[str]]) -> None:
    """pip's own default is six, of fifteen seconds each where nothing answers."""
    address, asked = proxy
    run = set_up(begun, PIP_INDEX_URL="https://127.0.0.1:9/simple", HTTPS_PROXY=address)
    assert run.returncode == 2 and len(run.stderr.splitlines()) == 5
    assert len(asked) == 6 and len(set(asked)) == 2, "three of its own index, three of PyTorch's"


def test_every_advice_to_install_an_extra_is_the_one_that_works_in_a_checkout() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    sources = [path for name in ("schemas", "datakit", "trainers", "pipelines", "quiver", "docs") for path in
               sorted((ROOT / name).rglob("*.[pm][yd]"))]  # fmt: skip
    advised = [
        (path.name, command)
        for path in [ROOT / "README.md", *sources]
        for command in re.findall(r"""(?:[\w./]*/)?pip install [^"`\n]*""", path.read_text())
        if "setuptools" not in command
    ]
    for name, command in advised:
        match = re.match(r"\.venv/bin/pip install (?:--no-build-isolation )?-e '\.\[(\w+)\]'", command)
        assert match and match[1] in extras, f"{name}: {command}"
    named = {
        (path.name, extra)
        for path in sources
        for extra in re.findall(
            r"""(?:with_extra\(|missing_library\((?:[^,()]*, ){2})["'](\w+)["']""", path.read_text()
        )
    }
    known = {
        "browser.py",
        "check.py",
        "config.py",
        "frames.py",
        "json_schema.py",
        "languages.py",
        "library.py",
        "listen.py",
        "objects.py",
        "open_lineage.py",
        "page.py",
        "pixels.py",
        "ray_cluster.py",
        "server.py",
    }
    assert known == {name for name, _ in named}
    assert {extra for _, extra in named} <= {*extras}
    assert not [name for name, _ in advised if name.endswith(".py")], "what the shell finds decides whether it works"


def test_advice_to_install_names_the_environment_where_the_shell_would_not_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ".venv/bin"
    folder.mkdir(parents=True)
    for name in ("python", "pip"):
        (folder / name).touch(0o755)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "beside").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(installed, "_PROJECT", tmp_path)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", "/usr/bin")
    assert installed.with_extra("s3") == ".venv/bin/pip install -e '.[s3]'"
    assert installed.as_run("quiver show x") == "quiver show x", "there is no such program here"
    assert installed.as_run("pip install x") == ".venv/bin/pip install x"
    monkeypatch.chdir(tmp_path / "beside")
    assert installed.with_extra("s3") == "../.venv/bin/pip install -e '..[s3]'"
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin")
    assert installed.with_extra("s3") == "pip install -e '..[s3]'"
    (tmp_path / "pyproject.toml").unlink()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert installed.with_extra("s3") == f"pip install '{project['name']}[s3]'", "installed as a package"
