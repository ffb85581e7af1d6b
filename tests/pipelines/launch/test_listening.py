"""Nothing of a run on this machine listens on a network: every socket of every process, from its start to its end."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from schemas.process import interpreter
from tests.listening import listen
from tests.pipelines.commands import LUIGI, REST, environment
from tests.trainers import toys
from tests.warm.command import python


def test_the_watch_sees_an_open_port(tmp_path: Path) -> None:
    code = (
        "import socket, time\n"
        "kept = [socket.create_server(('0.0.0.0', 0)), socket.create_server(('127.0.0.1', 0))]\n"
        "kept.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)); kept[-1].bind(('0.0.0.0', 0))\n"
        "kept.append(socket.create_server(('::', 0), family=socket.AF_INET6)); time.sleep(0.5)"
    )
    seen = listen([sys.executable, "-c", code], tmp_path, dict(os.environ))
    wide = "0" * 8
    assert seen.code == 0, seen.output
    assert seen.open_to_others == [("tcp", wide), ("tcp6", "0" * 32), ("udp", wide)]
    assert ("tcp", "0100007F") in seen.sockets


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_training_listens_on_the_loopback_interface_alone(tmp_path: Path, ranks: int) -> None:
    """What a person set for a cluster does not open a run on one machine either; where ranks meet, nobody looks in."""
    modes: set[tuple[str, int]] = set()

    def look() -> None:
        for path in [tmp_path / "policy.run", *tmp_path.glob("policy.run/ranks-*/meeting")]:
            with suppress(FileNotFoundError):
                modes.add((path.name, stat.S_IMODE(path.stat().st_mode)))

    path = toys.written(tmp_path / "run.json", toys.config(tmp_path, max_steps=2, epochs=...))
    command = [*python(), "trainers.launch", path, "--ranks", str(ranks)]
    interfaces = {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_SOCKET_IFNAME": "eth0"}
    seen = listen(command, tmp_path, environment(**interfaces), look)
    assert seen.code == 0, seen.output
    assert len(seen.processes) >= 2 and seen.looks > 20
    assert seen.sockets, "ranks talk through sockets"
    assert seen.open_to_others == []
    assert modes == {("policy.run", 0o700), ("meeting", 0o700)}
    assert not list(tmp_path.glob("policy.run/ranks-*"))


def test_a_store_of_several_hosts_is_open_at_one_address(tmp_path: Path) -> None:
    """Started by hand or by srun: the first rank opens MASTER_ADDR, not every interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = toys.written(tmp_path / "run.json", toys.config(tmp_path, max_steps=2, epochs=...))
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command, forked = interpreter.module("trainers.run", path), [*python(), "trainers.run", path]
    other = subprocess.Popen(forked, env=environment(**world, RANK="1", LOCAL_RANK="1"), stderr=subprocess.DEVNULL)
    try:
        seen = listen(command, tmp_path, environment(**world, RANK="0", LOCAL_RANK="0"))
        assert seen.code == 0 and other.wait(60) == 0, seen.output
        assert ("tcp", "0100007F") in seen.sockets and seen.open_to_others == []
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("stage", ["Pair", pytest.param("RestIteration", marks=pytest.mark.slow)])
def test_data_stages_and_scorers_listen_nowhere(tmp_path: Path, stage: str) -> None:
    """`RestIteration`: sampling, scoring, verification and four training runs, on two workers of two processes."""
    more = ("--workers", "2", "--quiver-processes", "2")
    goal = ("pipelines", *REST) if stage in REST else ("toy", stage)
    seen = listen([str(LUIGI), "--module", *goal, *more], tmp_path, environment())
    assert seen.code == 0, seen.output
    assert len(seen.processes) >= 3 and seen.open_to_others == []
