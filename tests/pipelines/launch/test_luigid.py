"""Several `luigi` commands through a real `luigid`: the work is shared, done once, and ends well for all of them."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import digests, environment, leftovers, luigi, started

LUIGID = Path(sys.executable).with_name("luigid")


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[list[str]]:
    """Options that name a luigid of our own, on the loopback address; it is ended with the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "luigid"
    folder.mkdir()
    command = [str(LUIGID), "--port", str(port), "--address", "127.0.0.1", "--state-path", str(folder / "state")]
    with (folder / "log").open("wb") as log:
        daemon = subprocess.Popen(command, cwd=folder, env=environment(), stdout=log, stderr=log)
    try:
        _answers(port, daemon, folder / "log")
        yield ["--scheduler-host", "127.0.0.1", "--scheduler-port", str(port)]
    finally:
        daemon.terminate()
        daemon.wait(30)


def _answers(port: int, daemon: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    while True:
        assert daemon.poll() is None and time.monotonic() < until, log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/graph", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return


def test_two_commands_share_the_work(tmp_path: Path, scheduler: list[str]) -> None:
    calls = tmp_path / "calls"
    goal = ["Toy", "--seconds", "0.5", "--quiver-processes", "1", *scheduler]
    runs = [started(tmp_path, *goal, TOY_CALLS=str(calls)) for _ in range(2)]
    outputs = [run.communicate(timeout=300) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    paid = calls.read_text().splitlines()
    assert len(paid) == len(set(paid)), f"paid twice: {paid}"
    assert not leftovers(tmp_path)
    alone = tmp_path / "alone"
    alone.mkdir()
    assert luigi(alone, "Toy", "--seconds", "0.5").returncode == 0
    assert digests(alone) == digests(tmp_path)


@pytest.mark.slow
def test_a_fault_has_its_code_through_a_scheduler_too(tmp_path: Path, scheduler: list[str]) -> None:
    done = luigi(tmp_path, "Toy", "--fail", "--workers", "2", *scheduler)
    assert done.returncode == 10, done.stderr
    assert re.search(r"^error\[10/op-failed\].*", done.stderr, re.MULTILINE) and "the toy broke" in done.stderr
    done = luigi(tmp_path, "Toy", "--seconds", "300", "--quiver-hang-seconds", "1", *scheduler)
    assert done.returncode == 14, done.stderr
    assert "error[14/worker-stuck]: a worker has said nothing for" in done.stderr and "Traceback" not in done.stderr
