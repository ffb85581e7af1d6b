"""Chat templates rendered in a guarded child process, one for each template in use.

A template is code from outside. The child has no environment, a memory cap, a limit of CPU seconds for each
conversation and a cap on the output; when a limit stops it, the caller gets a `DataError` and the next use
starts a new child.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.errors import DataError, printable
from schemas.process import interpreter

MEMORY = 1 << 30
SECONDS = 2.0
OUTPUT = 1 << 20
_WALL = 120.0
_WORKER = Path(__file__).with_name("jinja_worker.py")


@dataclass(frozen=True)
class Conversation:
    """What one rendering is asked of: turns (role, content, and what else a turn has), tools, whether the assistant's
    header is left open at the end, whether characters are to be traced to their turns.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Any] | None = None
    open: bool = False
    traced: bool = False

    @staticmethod
    def of(roles: Sequence[str], contents: Sequence[str], open: bool = False, traced: bool = False) -> Conversation:
        """Of turns that have a role and a content alone."""
        turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=True)]
        return Conversation(turns, None, open, traced)


@dataclass(frozen=True)
class Rendered:
    """A text; of a traced one its runs (start, end, turn; a turn below 0: nobody can say) and whether the template
    looked into contents; or the fault's name and message.
    """

    text: str = ""
    runs: Sequence[tuple[int, int, int]] = ()
    looked: bool = False
    fault: str = ""
    detail: str = ""


@dataclass
class Sandbox:
    """One template with its values (`bos_token`, ...), and the child that renders it."""

    template: str
    values: Mapping[str, Any] = field(default_factory=dict)
    date: str | None = None
    seconds: float = SECONDS
    _child: subprocess.Popen[bytes] | None = None
    _owner: int = 0

    def render(self, conversations: Sequence[Conversation]) -> list[Rendered]:
        """The text of each conversation; `DataError` if the template does not compile or breaks a limit."""
        if not conversations:
            return []
        child = self._started()
        request = [vars(one) for one in conversations]
        return [Rendered(**answer) for answer in self._asked(child, request)]

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None and self._owner == os.getpid():
            child.kill()
            child.wait()
            for stream in (child.stdin, child.stdout):
                if stream is not None:
                    stream.close()

    def _started(self) -> subprocess.Popen[bytes]:
        if self._child is not None and self._owner == os.getpid():
            return self._child
        self._owner = os.getpid()
        self._child = subprocess.Popen(
            interpreter.script(str(_WORKER), options=("-s",)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={"PATH": os.defpath, "PYTHONHASHSEED": "0"}, cwd="/",
        )  # fmt: skip
        atexit.register(self.close)
        head = {
            "template": self.template, "values": dict(self.values), "date": self.date,
            "memory": MEMORY, "seconds": self.seconds, "output": OUTPUT,
        }  # fmt: skip
        answer = self._asked(self._child, head)
        if answer:
            self.close()
            raise DataError(answer["fault"], f"the chat template cannot be used: {printable(answer['detail'], 200)}")
        return self._child

    def _asked(self, child: subprocess.Popen[bytes], request: Any) -> Any:
        assert child.stdin is not None, "the child was started without a pipe"
        assert child.stdout is not None, "the child was started without a pipe"
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            child.stdin.flush()
            line = _line(child.stdout.fileno())
        except BrokenPipeError:
            line = b""
        if not line.endswith(b"\n"):
            child.kill()
            code = child.wait()
            self.close()
            raise DataError(
                "template-limit",
                "the chat template broke a limit and was stopped",
                expected=f"at most {self.seconds:g} s of CPU and {MEMORY >> 20} MiB a conversation",
                found=f"the renderer ended with {code}",
                kept="nothing of this output",
                next="use a template without heavy loops",
            )
        return json.loads(line)


def _line(file: int) -> bytes:
    """One reply, or what came of it before the end or the time limit."""
    data = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(file, selectors.EVENT_READ)
        while not data.endswith(b"\n"):
            if not selector.select(_WALL):
                break
            part = os.read(file, 1 << 20)
            if not part:
                break
            data += part
    return bytes(data)
