"""Work in worker processes: the same bytes as inline, and no process or file left behind by any end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from datakit.apply import apply
from datakit.generate import Complete
from datakit.label import Length, Reward
from datakit.run.resource import Resource
from datakit.run.runner import Local
from schemas import PROMPTS
from schemas.dataset import Dataset
from schemas.errors import ConfigError, WorkerError
from tests.datakit.fakes import (
    Count,
    DeviceScorer,
    Dies,
    FirstOfShard,
    Short,
    Twice,
    generator,
    prompts,
    responses,
    scorer,
)

CASES = {
    "label": (Length(column="prompt_id"), lambda: PROMPTS.example(40), {}),
    "keep": (Short(limit=8), lambda: PROMPTS.example(40), {}),
    "expand": (Twice(), lambda: PROMPTS.example(40), {}),
    "gather": (FirstOfShard(), lambda: PROMPTS.example(40), {}),
    "read": (Count(rows=40), None, {}),
    "complete": (Complete(rows_per_chunk=3), lambda: prompts(40), generator()),
    "reward": (Reward(rows_per_chunk=3), lambda: responses(*("x" * (i % 7) for i in range(40))), scorer()),
}


@pytest.mark.parametrize("case", CASES)
def test_the_number_of_processes_changes_no_byte(put, tmp_path, case):
    op, table, resources = CASES[case]
    given = [put(table(), (7, 7, 20, 33))] if table else []
    made = {
        count: apply(op, given, str(tmp_path / str(count)), resources=resources, seed=3, processes=count)
        for count in (0, 2)
    }
    assert made[0].content_digest == made[2].content_digest
    assert [f.sha256 for f in made[0].shards] == [f.sha256 for f in made[2].shards]


def test_a_killed_worker_is_reported_and_nothing_is_left(put, tmp_path):
    given = put(PROMPTS.example(9), (3, 6))
    with pytest.raises(WorkerError) as caught:
        apply(Dies(at="prompt_id 4"), given, str(tmp_path / "out"), processes=2)
    assert caught.value.render().startswith(
        "error[14/oom]: a worker was killed by SIGKILL while it did piece 1 of test.dies"
    )
    assert not (tmp_path / "out").exists()


def test_what_cannot_travel_is_refused(put, tmp_path):
    given = put(PROMPTS.example(3))
    op = Length(column="prompt_id")

    class Hidden(Length):
        name = "test.hidden"

    with pytest.raises(ConfigError, match="not-picklable"):
        apply(Hidden(column="prompt_id"), given, str(tmp_path / "a"), processes=1)
    lambdas = {"scorer": Resource("x", lambda: None)}
    with pytest.raises(ConfigError, match=r"its resource scorer \(.*<lambda>\) is a lambda(.|\n)*processes=0"):
        apply(Reward(), put(responses("a")), str(tmp_path / "b"), resources=lambdas, processes=1)
    assert apply(op, given, str(tmp_path / "a")).num_rows == 3


UNGUARDED = """
import sys
from datakit.apply import apply
from datakit.run.resource import Resource
from datakit.label import Reward
from schemas.dataset import Dataset

def mine():
    return None

apply(Reward(), Dataset.open(sys.argv[1]), sys.argv[2], resources={"scorer": Resource("k", mine)}, processes=1)
"""


@pytest.mark.parametrize("by", ["file", "standard input"])
def test_a_script_without_a_guard_is_asked_for_one(put, tmp_path, by):
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    source = script.read_text() if by == "standard input" else ""
    command = [sys.executable, "-" if source else str(script), put(responses("a")).url, str(tmp_path / "out")]
    done = subprocess.run(
        command, input=source, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, cwd=tmp_path,
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    last = done.stderr[done.stderr.rindex("error[14/worker-not-started]") :]
    assert done.returncode == 1 and "next: put the work under `if __name__ == '__main__':`" in last, done.stderr


PARENT = """
import sys
from datakit.apply import apply
from schemas.dataset import Dataset
from tests.datakit.fakes import Dies
if __name__ == "__main__":
    op = Dies(at="none", seconds=60, marker=sys.argv[3])
    apply(op, Dataset.open(sys.argv[1]), sys.argv[2], processes=2)
"""


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_leave_with_their_parent(put, tmp_path, ending):
    given = put(PROMPTS.example(9), (3, 6))
    script, marker, out = tmp_path / "parent.py", tmp_path / "pids", tmp_path / "out"
    script.write_text(PARENT)
    marker.mkdir()
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen(
        [sys.executable, str(script), given.url, str(out), str(marker)],
        env={**os.environ, "PYTHONPATH": root},
        stderr=subprocess.DEVNULL,
    )
    wait_for(lambda: len(list(marker.iterdir())) == 2, 20)
    pids = [int(path.name) for path in marker.iterdir()]
    parent.send_signal(ending)
    parent.wait(20)
    wait_for(lambda: not any(alive(pid) for pid in pids), 5)
    assert not Dataset.exists(str(out))
    apply(Length(column="prompt_id"), given, str(out))
    assert not [path for path in out.iterdir() if path.name.startswith("_attempt")]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(true, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_a_forked_process_starts_workers_too(put, tmp_path):
    given, out = put(PROMPTS.example(9), (3,)), str(tmp_path / "out")
    apply(Length(column="prompt_id"), given, str(tmp_path / "first"), processes=2)
    pid = os.fork()
    if pid == 0:
        try:
            apply(Length(column="prompt_id"), given, out, processes=2)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0
    assert Dataset.open(out).num_rows == 9


def test_memory_is_bounded_by_row_groups_not_by_shards(put, tmp_path, monkeypatch):
    monkeypatch.setattr("datakit.run.progress.INTERVAL", 0.0)
    given, allocated = put(responses(*("x" * 4000 for _ in range(50_000)))), []
    before = pa.total_allocated_bytes()
    apply(
        Length(),
        given,
        str(tmp_path / "out"),
        on_progress=lambda _: allocated.append(pa.total_allocated_bytes() - before),
    )
    assert max(allocated) < given.num_rows * 4000 * 0.55


def test_each_worker_sets_its_own_variables_before_it_opens_a_model(put, tmp_path):
    resources = {"scorer": Resource("devices", DeviceScorer, DeviceScorer.takes)}
    environments = [{"TOY_DEVICE": "3"}, {"TOY_DEVICE": "5"}]
    given, out = put(responses(*"abcdef"), (1, 1, 1, 3)), str(tmp_path / "out")
    scored = apply(Reward(), given, out, resources=resources, executor=Local(2, environments))
    assert set(scored.read()["reward"].to_pylist()) == {3.0, 5.0}
    assert "TOY_DEVICE" not in os.environ
