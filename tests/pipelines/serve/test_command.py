"""`quiver serve` as a command: what it refuses before it listens, where it listens, how it ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.serve import listen, secret
from quiver import console
from schemas.dataset import Dataset
from schemas.errors import ConfigError, ConflictError, QuiverError
from tests.listening import _is_loopback, _sockets
from tests.pages import model

QUIVER = str(Path(sys.executable).parent / "quiver")


def refused(*words: str) -> QuiverError:
    with pytest.raises(QuiverError) as fault:
        console.run(["serve", *words])
    return fault.value


def test_another_host_and_a_token_that_others_read_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        fault = refused("./m", "--host", host)
        assert (fault.code, fault.slug) == (2, "open-host") and "not encrypted" in fault.what, host
    fault = refused("./m", "--host", "0.0.0.0", "--open-to-network", "--no-token")
    assert (fault.code, fault.slug) == (2, "open-host") and "has a token" in fault.what
    place = tmp_path / "quiver-data" / "_serve" / "token"
    assert stat.S_IMODE(place.stat().st_mode) == 0o600 and stat.S_IMODE(place.parent.stat().st_mode) == 0o700
    made = place.read_text().strip()
    assert len(made) > 40 and secret.of_file(str(place)).text == made and made not in repr(secret.of_file(str(place)))
    place.chmod(0o640)
    assert refused("./m").slug == "bad-token-file"
    place.unlink()
    (tmp_path / "elsewhere").write_text(made)
    place.symlink_to(tmp_path / "elsewhere")
    assert refused("./m").slug == "bad-token-file"
    place.unlink()
    place.write_text("short")
    place.chmod(0o600)
    assert refused("./m").slug == "bad-token"
    monkeypatch.setenv("MINE", "short")
    assert refused("./m", "--token-env", "MINE").slug == "bad-token"
    assert refused("./m", "--token-env", "NOWHERE").slug == "no-key"
    assert refused("./m", "--token-env", f"sk-{made}").slug == "bad-key"


def test_a_port_that_is_taken_no_model_and_wrong_numbers_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        fault = refused("./m", "--no-token", "--port", port)
    assert isinstance(fault, ConflictError) and fault.slug == "port-taken" and f"port {port} is taken" in fault.what
    assert "quiver serve" in fault.next and f"--port {int(port) + 1}" in fault.next
    assert refused("./m", "--no-token", "--port", "0").slug == "not-found"
    (tmp_path / "text.txt").write_text("no model")
    assert refused("./text.txt", "--no-token", "--port", "0").slug == "not-found"
    for flag in ("--port=x", "--port=65536", "--slots=0", "--queue=-1", "--threads=1e3"):
        assert refused("./m", "--no-token", flag).slug == "bad-parameter"
    assert refused().slug == "bad-parameter"
    assert refused("./m", "--host", "no such host", "--open-to-network").slug == "bad-address"


def test_a_missing_library_is_said_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(ConfigError, match="uvicorn, which is not installed") as fault:
        listen.require_library()
    assert fault.value.slug == "missing-library" and "[serve]" in fault.value.next


class Process:
    """`quiver serve` in a process of its own, with its output in files."""

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        self.folder = folder
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        with self.out.open("w") as out, self.err.open("w") as err:
            self.child = subprocess.Popen([QUIVER, "serve", *words], cwd=folder, stdout=out, stderr=err)

    def address(self) -> str:
        until = time.monotonic() + 240
        while "as a model: " not in self.out.read_text():
            assert self.child.poll() is None and time.monotonic() < until, self.err.read_text()
            time.sleep(0.05)
        return self.out.read_text().split("as a model: ")[1].split("/v1#")[0]

    def end(self, number: int) -> int:
        self.child.send_signal(number)
        return self.child.wait(60)


def ask(address: str, token: str, path: str = "/v1/models", body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(address + path, data, headers), timeout=60) as answer:
        return json.load(answer)


@pytest.mark.slow
def test_a_server_is_reached_from_this_machine_alone_and_ends_with_a_signal(tmp_path: Path) -> None:
    model(tmp_path / "my-model")
    words = ("./my-model", "--port", "0", "--slots", "4")
    body = {"prompt": [5, 6], "max_tokens": 20, "seed": 3, "return_token_ids": True}
    answers = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        running = Process(tmp_path, words)
        address = running.address()
        token = (tmp_path / "quiver-data" / "_serve" / "token").read_text().strip()
        sockets = {*_sockets([running.child.pid])}
        assert sockets and all(_is_loopback(each) for _, each in sockets)
        answers.append(ask(address, token, "/v1/completions", body)["choices"][0]["token_ids"])
        commands = Path(f"/proc/{running.child.pid}/cmdline").read_bytes()
        assert running.end(number) == (-9 if number == signal.SIGKILL else 75)
        printed = running.out.read_text() + running.err.read_text()
        assert token not in printed and token.encode() not in commands and "Traceback" not in printed
    assert answers[0] == answers[1] == answers[2] and os.path.exists(tmp_path / "quiver-data" / "_serve" / "token")


def counted(address: str, token: str, line: str) -> int:
    headers = {"Authorization": f"Bearer {token}"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}/metrics", headers=headers), timeout=60) as answer:
        text = answer.read().decode()
    return sum(int(one.rsplit(" ", 1)[1]) for one in text.splitlines() if one.startswith(line))


@pytest.mark.slow
def test_after_a_kill_under_load_the_next_run_goes_on_and_loses_only_what_was_under_way(tmp_path: Path) -> None:
    count, under_way, requests = 60, 4, 'quiver_requests_total{path="/v1/completions",status="200"}'
    model(tmp_path / "my-model")
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"prompt": "number {at}"}}\n' for at in range(count)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    served = f"http://127.0.0.1:{port}/v1#my-model,key=T,tokenizer=./my-model,concurrency={under_way}"
    words = [QUIVER, "Generate", "--prompts", "prompts.jsonl", "--samples-per-prompt", "2", "--max-new-tokens", "200"]
    place = tmp_path / "quiver-data" / "_serve" / "token"

    def client(root: str) -> subprocess.Popen[str]:
        given = [*words, "--model", served, "--quiver-root", root]
        environment = {**os.environ, "T_FILE": str(place), "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        return subprocess.Popen(given, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True)

    def rows(printed: str) -> list[tuple[str, int, list[int]]]:
        made = Dataset.open(str(tmp_path / printed.rsplit(maxsplit=1)[-1])).read()
        names = ("prompt_id", "sample_index", "response_ids")
        return sorted(zip(*(made[name].to_pylist() for name in names), strict=True))

    first = Process(tmp_path, ("./my-model", "--port", port))
    address, token = first.address(), place.read_text().strip()
    asking = client("one")
    while (before := counted(address, token, requests)) < 25:
        assert asking.poll() is None, asking.communicate()
        time.sleep(0.01)
    first.end(signal.SIGKILL)
    _, printed = asking.communicate(timeout=120)
    assert asking.returncode == 13 and "does not answer" in printed and "Traceback" not in printed, printed
    second = Process(tmp_path, ("./my-model", "--port", port))
    second.address()
    again = client("one")
    out, printed = again.communicate(timeout=240)
    assert again.returncode == 0, printed
    probes = 8
    assert counted(address, token, requests) <= count - (before - probes) + under_way + probes
    undisturbed = client("two")
    whole, printed = undisturbed.communicate(timeout=240)
    assert undisturbed.returncode == 0, printed
    assert second.end(signal.SIGTERM) == 75
    assert len(rows(out)) == 2 * count and rows(out) == rows(whole)
