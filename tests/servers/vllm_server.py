"""vLLM itself on the loopback interface: its CPU build, which `make test-servers` puts into `build/vllm`."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.sources import ROOT

PYTHON = ROOT / "build" / "vllm" / "bin" / "python"
INSTALLED = PYTHON.parents[1] / ".installed"
CONTEXT = 256
"""Tokens that the served model reads, prompt and answer together."""
_STARTS_IN = 600.0
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
_SETTINGS = ("--dtype", "float32", "--enforce-eager", "--max-num-seqs", "32")


@dataclass
class VllmServer:
    """The model in `folder`, served as `model`; a context manager. `log`: what the server writes goes there."""

    folder: Path
    log: Path
    model: str = "m"
    settings: tuple[str, ...] = ("--enable-scale-out",)
    port: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __enter__(self) -> VllmServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def reference(self) -> str:
        return f"{self.root}/v1#{self.model}"

    def start(self) -> None:
        """Start it, at the port that it had before, and wait until it answers."""
        self.port = self.port or _free_port()
        place = ("--model", str(self.folder), "--served-model-name", self.model)
        where = ("--host", "127.0.0.1", "--port", str(self.port), "--max-model-len", str(CONTEXT))
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(PYTHON), "-m", "vllm.entrypoints.openai.api_server", *place, *where, *_SETTINGS, *self.settings],
                env={**os.environ, **ENVIRONMENT},
                cwd=self.log.parent,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + _STARTS_IN
        while not self._is_up():
            if self._process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise AssertionError(f"vLLM does not start:\n{self.log.read_text(errors='replace')[-6000:]}")
            time.sleep(0.5)

    def kill(self) -> None:
        """End it and all its processes at once, as the kernel does when memory runs out."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def _is_up(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.root}/health", timeout=5):
            return True
        return False

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What it answers, asked without our client."""
        data = json.dumps(body).encode() if body is not None else b""
        request = urllib.request.Request(f"{self.root}{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as reply:
            text = reply.read()
        return json.loads(text) if text.strip() else None

    @property
    def finished(self) -> int:
        """Requests that it has answered to the end since it started, by its own count."""
        return sum(count for reason, count in self._ends() if reason in ("stop", "length"))

    @property
    def broken_off(self) -> int:
        """Requests that it broke off since it started, by its own count."""
        return sum(count for reason, count in self._ends() if reason == "abort")

    def _ends(self) -> list[tuple[str, int]]:
        with urllib.request.urlopen(f"{self.root}/metrics", timeout=30) as reply:
            text = reply.read().decode()
        counted = r'^vllm:request_success_total\{[^\n]*finished_reason="(\w+)"[^\n]*\} (\S+)$'
        return [(reason, int(float(count))) for reason, count in re.findall(counted, text, re.MULTILINE)]


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
