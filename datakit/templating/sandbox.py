"""Chat templates rendered in a guarded child process, one for each template in use.

A template is code from outside. The child has no environment, a memory cap, a limit of CPU seconds for each
conversation and a cap on the output. A conversation that breaks a limit has a fault, and the next is rendered; where
that goes on, or the child had to be stopped, the caller gets a `DataError` and the next use starts a new child.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from schemas.errors import DataError, printable
from schemas.process import interpreter
from schemas.untrusted import strict_json

MEMORY = 1 << 30
SECONDS = 2.0
OUTPUT = 1 << 20
LIMIT = "template-limit"
"""The fault of a conversation that was over a limit."""
LARGEST = 1 << 26
"""Bytes of JSON that a conversation may have."""
_WALL = 120.0
_BATCH_ROWS, _BATCH_BYTES = 512, 1 << 23
_MOST_OVER = 32
"""Conversations over a limit after which it is the template that is at fault."""
_WORKER = Path(__file__).with_name("jinja_worker.py")
_NOT_AGREED = "the renderer answered what was not agreed"
_FIELDS = {"text": str, "runs": list, "looked": bool, "fault": str, "detail": str}
_HALF = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Conversation:
    """What one rendering is asked of: turns (role, content, and what else a turn has), tools, whether the assistant's
    header is left open at the end, whether characters are to be traced to their turns, from turn `traced_from` on.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Any] | None = None
    open: bool = False
    traced: bool = False
    traced_from: int = 0

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
    _over: int = 0

    def render(self, conversations: Iterable[Conversation]) -> list[Rendered]:
        """The text of each conversation; `DataError` if the template does not compile or breaks limits again and
        again.
        """
        return list(self.stream(conversations))

    def stream(self, conversations: Iterable[Conversation]) -> Iterator[Rendered]:
        """`render` of conversations that are made when they are asked for; few of them are in memory at once."""
        batch: list[bytes] = []
        size = 0
        for conversation in conversations:
            asked = json.dumps(vars(conversation)).encode()
            if len(asked) > LARGEST:
                yield from self._answered(batch)
                batch, size = [], 0
                yield Rendered(fault=LIMIT, detail=f"{len(asked):,} bytes of JSON, over {LARGEST:,}")
                continue
            batch.append(asked)
            size += len(asked)
            if len(batch) == _BATCH_ROWS or size > _BATCH_BYTES:
                yield from self._answered(batch)
                batch, size = [], 0
        yield from self._answered(batch)

    def _answered(self, batch: Sequence[bytes]) -> list[Rendered]:
        if not batch:
            return []
        answers = self._asked(self._started(), b"[" + b",".join(batch) + b"]")
        try:
            if not isinstance(answers, list) or len(answers) != len(batch):
                raise ValueError("another number of answers")
            made = [_rendered(answer) for answer in answers]
        except ValueError:
            raise self._stopped(_NOT_AGREED) from None
        over = [one.detail for one in made if one.fault == LIMIT]
        self._over += len(over)
        if self._over > _MOST_OVER:
            raise self._stopped(f"{self._over} conversations over a limit; the last one: {printable(over[-1])}")
        return made

    def require_quick(self, *made: Rendered) -> None:
        """`DataError` where one of these, of conversations that any template renders at once, is over a limit."""
        if slow := [one.detail for one in made if one.fault == LIMIT]:
            raise self._stopped(slow[0])

    def close(self) -> None:
        """Kill the child and wait for its end; the next rendering starts another."""
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
        answer = self._asked(self._child, json.dumps(head).encode())
        if answer != {}:
            fault, detail = (answer.get("fault"), answer.get("detail")) if isinstance(answer, dict) else (None, None)
            if fault != "template-syntax" or not isinstance(detail, str):
                raise self._stopped(_NOT_AGREED)
            self.close()
            raise DataError(fault, f"the chat template cannot be used: {printable(detail, 200)}")
        return self._child

    def _asked(self, child: subprocess.Popen[bytes], request: bytes) -> Any:
        """What the child answers to a line of JSON, as JSON; `DataError`, and the child's end, for what is none."""
        assert child.stdin is not None, "the child was started without a pipe"
        assert child.stdout is not None, "the child was started without a pipe"
        timer = threading.Timer(_WALL, child.kill)
        timer.daemon = True
        timer.start()
        try:
            child.stdin.write(request + b"\n")
            child.stdin.flush()
            line = child.stdout.readline(MEMORY)
        except BrokenPipeError:
            line = b""
        finally:
            timer.cancel()
        if not line.endswith(b"\n"):
            child.kill()
            raise self._stopped(f"the renderer ended with {child.wait()}")
        try:
            return strict_json(line)
        except (ValueError, RecursionError):
            raise self._stopped(_NOT_AGREED) from None

    def _stopped(self, actual: str) -> DataError:
        self.close()
        self._over = 0
        return DataError(
            LIMIT,
            "the chat template broke a limit and was stopped",
            expected=f"at most {self.seconds:g} s of CPU and {MEMORY >> 20} MiB a conversation",
            found=actual,
            kept="nothing of this output",
            next="use a template without heavy loops",
        )


def _rendered(answer: Any) -> Rendered:
    """One answer of the child; `ValueError` where it is not as agreed."""
    if not isinstance(answer, dict) or not answer.keys() <= _FIELDS.keys():
        raise ValueError("other fields")
    if any(type(value) is not _FIELDS[name] for name, value in answer.items()):
        raise ValueError("other types")
    made = Rendered(**answer)
    for run in answer.get("runs", []):
        if type(run) is not list or [type(number) for number in run] != [int] * 3:
            raise ValueError("other runs")
        if not 0 <= run[0] <= run[1] <= len(made.text):
            raise ValueError("runs outside of the text")
    if not made.text.isascii() and _HALF.search(made.text):
        return Rendered(fault="template-failed", detail="the template writes half a character (a lone surrogate)")
    return made
