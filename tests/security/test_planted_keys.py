"""Six keys, planted where keys of servers are and where servers send them back, and sought wherever anything is kept.

In the environment, in a file, in an address, in answers and headers, in words of errors, in a redirect. Everything
below the workspace is read (rows of Parquet files too), what was printed, and the command line of every process.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest

from tests.model_server import Body, ModelServer, Raw, http
from tests.pipelines.commands import started

KEYS = {name: f"sk-planted-{name}-0123456789/+=" for name in ("environment", "file", "address", "echo", "words", "to")}
PROMPTS = "".join(f'{{"prompt": "question {number}"}}\n' for number in range(6))


def sent_back(answer_of: Callable[[str, Body], Raw | None]) -> Callable[[ModelServer, Body, Body], Raw | None]:
    """What happens to requests of questions: not to probes, which come before any row."""

    def fault(server: ModelServer, body: Body, answer: Body) -> Raw | None:
        text = str(body["messages"][-1]["content"])
        return answer_of(text, answer) if text.startswith("question") else None

    return fault


def echo(text: str, answer: Body) -> Raw:
    answer["choices"][0]["message"] = {"content": f"you sent {KEYS['echo']}", "reasoning": KEYS["echo"]}
    answer["system_fingerprint"] = KEYS["echo"]
    return Raw(http(200, json.dumps(answer).encode(), {"X-Echo": f"Bearer {KEYS['echo']}"}))


def words(text: str, answer: Body) -> Raw | None:
    key = KEYS["words"]
    bodies = {
        "question 0": (400, json.dumps({"error": {"message": f"wrong key {key}"}}).encode()),
        "question 1": (422, b"x" * 140 + key.encode()),
        "question 2": (500, f"<h1>{key}</h1>".encode()),
        "question 3": (200, f'{{"choices": "{key}"}}'.encode()),
        "question 4": (418, json.dumps({"detail": key}).replace("/", "\\/").encode()),
    }
    return Raw(http(*bodies[text])) if text in bodies else None


def redirect(text: str, answer: Body) -> Raw:
    return Raw(http(307, b"", {"Location": f"http://elsewhere/v1?key={quote(KEYS['to'], safe='')}"}))


class ProcessList:
    """The command lines of all processes, looked at again and again."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self.looks = 0
        self._over = threading.Event()

    def __enter__(self) -> ProcessList:
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(10)

    def _look(self) -> None:
        while not self._over.wait(0.05):
            self.looks += 1
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    self.seen.add(path.read_bytes())
                except OSError:
                    continue


def everything_below(folder: Path) -> str:
    """All bytes of all files, and all rows of Parquet files, whose texts are packed there."""
    parts = []
    for path in folder.rglob("*"):
        if path.is_file():
            parts += [str(path), path.read_bytes().decode("utf-8", "replace")]
            parts += [repr(pq.read_table(path).to_pylist())] if path.suffix == ".parquet" else []
    return "\n".join(parts)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_six_planted_keys_are_nowhere(tmp_path: Path) -> None:
    data, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    data.mkdir()
    elsewhere.mkdir()
    (data / "prompts.jsonl").write_text(PROMPTS)
    (data / "prices.json").write_text('{"m": {"prompt": 1, "completion": 2}}')
    (elsewhere / "key").write_text(KEYS["file"] + "\n")
    settings = elsewhere / "luigi.cfg"
    settings.write_text(f"[Generate]\nmodel = http://user:{KEYS['address']}@127.0.0.1:1/v1#m\n")
    printed, codes = [], {}

    def run(name: str, server: ModelServer | None, *command: str, **environment: str) -> None:
        model = (
            ("--model", f"{server.reference},revision={name},key=MY_KEY,usage=true,prices=prices.json")
            if server
            else ()
        )
        given = ("--name", f"keys/{name}", *model, "--log-level", "DEBUG")
        with started(data, *command, *given, module="pipelines", **environment) as process:
            out, err = process.communicate(timeout=300)
        printed.extend((out, err))
        codes[name] = process.returncode

    generate = ("Generate", "--prompts", "prompts.jsonl")
    with ProcessList() as processes:
        with ModelServer(key=KEYS["environment"]) as server:
            run("environment", server, *generate, MY_KEY=KEYS["environment"])
        with ModelServer(key=KEYS["file"]) as server:
            rows = str(next(data.glob("quiver-data/keys/environment-*")))
            run("file", server, "Label", "--data", rows, "--op", "judge", MY_KEY_FILE=str(elsewhere / "key"))
        run("address", None, *generate, LUIGI_CONFIG_PATH=str(settings))
        for name, fault in (("echo", echo), ("words", words), ("to", redirect)):
            with ModelServer(key=KEYS[name], faults=sent_back(fault)) as server:
                run(name, server, *generate, MY_KEY=KEYS[name])
    assert codes == {"environment": 0, "file": 0, "address": 2, "echo": 0, "words": 0, "to": 13}, printed
    below, shown = everything_below(tmp_path / "data"), "\n".join(printed)
    lists = b"\n".join(processes.seen).decode("utf-8", "replace")
    assert processes.looks > 20 and "prompts.jsonl" in lists
    assert "you sent [key]" in below and "400: wrong key [key]" in below and "key=[key]" in shown
    for key in KEYS.values():
        for form in (key, key.replace("/", "\\/"), quote(key, safe=""), key[:22]):
            assert form not in below and form not in shown and form not in lists, form
