"""A worker that hangs is reported with what its threads were at, and nothing of it stays; slow work is waited for."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import psutil
import pytest

from datakit.apply import apply
from datakit.op import Context, Read, Result
from schemas import PROMPTS, Schema
from schemas.errors import WorkerError
from tests.datakit.fakes import Dies


@dataclass(frozen=True, kw_only=True)
class Silent(Read):
    """One row after so many seconds, asleep or at work."""

    name: ClassVar[str] = "test.silent"
    seconds: float
    works: bool

    def gives(self, *inputs: Schema) -> Schema:
        return PROMPTS

    def read(self, ctx: Context) -> Iterator[Result]:
        until = time.monotonic() + self.seconds
        while time.monotonic() < until:
            time.sleep(0 if self.works else 0.1)
        yield Result(PROMPTS.example(1))


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of stacks go to a folder of the test's own."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_a_hanging_worker_is_reported_with_its_stacks(put, tmp_path, scratch):
    op = Dies(at="none", seconds=300, marker=str(tmp_path))
    with pytest.raises(WorkerError) as caught:
        apply(op, put(PROMPTS.example(9), (3, 6)), str(tmp_path / "out"), processes=2, hang_seconds=1)
    error = caught.value
    assert error.code == 14 and re.fullmatch(r"a worker has .* piece [01] of test\.dies", error.what)
    assert "in label" in Path(error.where).read_text() and Path(error.where).parent == scratch
    assert not (tmp_path / "out").exists()
    pids = [int(path.name) for path in tmp_path.iterdir() if path.name.isdecimal()]
    assert len(pids) == 2 and not any(psutil.pid_exists(pid) for pid in pids)


def test_a_stream_may_be_silent_while_it_works(tmp_path, scratch):
    made = apply(Silent(seconds=3, works=True), [], str(tmp_path / "out"), processes=1, hang_seconds=1.2)
    assert made.num_rows == 1 and os.listdir(scratch) == []
    with pytest.raises(WorkerError, match="said nothing"):
        apply(Silent(seconds=300, works=False), [], str(tmp_path / "idle"), processes=1, hang_seconds=0.5)
