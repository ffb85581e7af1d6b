"""Data stages in Slurm's job arrays, through a cluster of one host that really runs them: the bytes of the local
executor, whatever is killed.
"""

from __future__ import annotations

import functools
import os
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from datakit.apply import apply
from datakit.clients import TOKENIZED_PROMPTS
from datakit.generate import Complete
from datakit.label import Length
from datakit.run import array_task, on_slurm
from datakit.run.array_folder import ArrayFolder, Sign
from datakit.run.on_slurm import OnSlurm
from datakit.run.progress import Progress
from datakit.run.resource import Resource
from pipelines.runtime.executors import meeting_place
from schemas import PROMPTS
from schemas.errors import ConfigError, DataError, IntegrityError, ServiceError, WorkerError
from tests.datakit.fakes import Dies, Fails, generator, prompts
from tests.executors.program import STAGES, DiesOnce, Slow, put
from tests.pipelines.launch.processes import SLURM, alive, fake_slurm

GOLDEN = Path(__file__).parent / "array.sh"
HOSTILE = '/data/my runs/it\'s $(touch pwned) `id`; 100% "x"'


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OnSlurm:
    """Two tasks on the cluster, which has no delays."""
    fake_slurm(tmp_path, monkeypatch)
    monkeypatch.setattr(on_slurm, "_DONE_SECONDS", 0.3)
    return OnSlurm(str(tmp_path / "meeting"), processes=2, poll_seconds=0.3)


def test_the_script_is_the_golden_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`QUIVER_GOLDEN=write` writes the file anew. Slurm and bash read back what was meant."""
    write = os.environ.get("QUIVER_GOLDEN") == "write"
    for variable in list(os.environ):
        monkeypatch.delenv(variable)
    for variable, value in {"PATH": "/bin:/usr/bin", "HOME": "/home/me", "NO": "secret"}.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "executable", "/opt/quiver env/bin/python")
    monkeypatch.setattr(sys, "path", ["/opt/quiver", ""])
    executor = OnSlurm("/x", gpus=2, options=("--partition=cpu", "--mem=8G"))
    text = executor.script(ArrayFolder(Path(HOSTILE)), "label.reward", 12)
    if write:
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text() and "secret" not in text
    (tmp_path / "script").write_text(text)
    sys.path.insert(0, str(SLURM.parent))
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path))
    import slurm as fake

    asked = fake.options_of(tmp_path / "script")
    assert asked["output"] == HOSTILE.replace("%", "%%") + "/logs/%A_%a.log"
    assert (asked["array"], asked["gpus"], asked["export"], asked["mem"]) == ("0-11", "2", "HOME,PATH", "8G")
    last = text.splitlines()[-1]
    assert shlex.split(last)[2:] == ["-P", "-m", "datakit.run.array_task", HOSTILE]
    with pytest.raises(ConfigError, match="bad-path"):
        executor.script(ArrayFolder(Path("/a\nb")), "x", 1)
    with pytest.raises(ConfigError, match="does not start with --"):
        OnSlurm("/x", options=("partition=cpu",))


@pytest.mark.parametrize("name", ["label", *(pytest.param(one, marks=pytest.mark.slow) for one in STAGES)])
def test_every_kind_of_stage_gives_the_bytes_of_the_local_executor(name: str, tmp_path: Path, slurm: OnSlurm) -> None:
    op, tables, resources = STAGES[name]
    given = [put(table(), str(tmp_path / f"given-{number}"), 8) for number, table in enumerate(tables)]
    seen: list[Progress] = []
    run = functools.partial(apply, op, given, resources=resources(), seed=3, rows_per_shard=40)
    made = run(into=str(tmp_path / "slurm"), executor=slurm, on_progress=seen.append)
    local = run(into=str(tmp_path / "local"))
    assert made.content_digest == local.content_digest
    assert [file.sha256 for file in made.shards] == [file.sha256 for file in local.shards]
    assert seen[-1].lost == 0 and (seen[-1].total or seen[-1].rows) == seen[-1].rows
    assert os.listdir(slurm.folder) == [] and not alive(tmp_path)


def test_a_task_that_is_killed_is_replaced_and_nothing_is_asked_twice(tmp_path: Path, slurm: OnSlurm) -> None:
    given, op = put(prompts(48), str(tmp_path / "given"), 4), Complete(rows_per_chunk=3)
    log, marker = str(tmp_path / "log"), str(tmp_path / "marker")
    model = Resource("echo", functools.partial(DiesOnce, log, marker), TOKENIZED_PROMPTS)
    seen: list[Progress] = []
    made = apply(
        op, given, str(tmp_path / "slurm"), resources={"generator": model}, seed=3, executor=slurm,
        on_progress=seen.append,
    )  # fmt: skip
    local = apply(op, given, str(tmp_path / "local"), resources=generator(), seed=3)
    assert made.content_digest == local.content_digest and os.path.exists(marker)
    assert {*Counter(Path(log).read_text().split()).values()} == {1}
    assert (seen[-1].lost, seen[-1].rows) == (1, 48)


@pytest.mark.parametrize(
    ("op", "hang", "kind", "words"),
    [
        pytest.param(
            Dies(at="prompt_id 7"),
            None,
            WorkerError,
            "oom.*4 tasks of job arrays were lost while they did piece 1",
            marks=pytest.mark.slow,
            id="dies",
        ),
        pytest.param(Fails(at="prompt_id 7"), None, DataError, "op-failed", id="fails"),
        pytest.param(
            Dies(at="", seconds=600), 2.0, WorkerError, "has said nothing for", marks=pytest.mark.slow, id="hangs"
        ),
    ],
)
def test_what_goes_wrong_is_told_and_ends_all_tasks(
    op: Any, hang: float | None, kind: type[Exception], words: str, tmp_path: Path, slurm: OnSlurm
) -> None:
    given = put(PROMPTS.example(24), str(tmp_path / "given"), 4)
    with pytest.raises(kind, match=words) as caught:
        apply(op, given, str(tmp_path / "out"), executor=slurm, hang_seconds=hang)
    assert os.listdir(slurm.folder) == [] and not (tmp_path / "out").exists() and not alive(tmp_path)
    if hang is not None:
        assert "in label" in Path(caught.value.where).read_text(), "the stacks of its threads"  # type: ignore[attr-defined]


def test_what_slurm_says_reaches_the_user(tmp_path: Path, slurm: OnSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    given = put(PROMPTS.example(4), str(tmp_path / "given"), 2)
    (tmp_path / "bin" / "sbatch").write_text('#!/bin/bash\necho "sbatch: error: invalid partition" >&2\nexit 1\n')
    with pytest.raises(ServiceError, match="invalid partition"):
        apply(Length(column="prompt_id"), given, str(tmp_path / "out"), executor=slurm)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="sbatch cannot be found"):
        apply(Length(column="prompt_id"), given, str(tmp_path / "out"), executor=slurm)
    assert os.listdir(slurm.folder) == []


def test_tasks_know_that_somebody_waits_while_slurm_says_nothing(tmp_path: Path, slurm: OnSlurm) -> None:
    """As long as it may (ten minutes) they would not wait for it."""
    squeue, there = tmp_path / "bin" / "squeue", (tmp_path / "bin" / "squeue").read_text()
    (tmp_path / "squeue").write_text(there)
    squeue.write_text(
        f"#!/bin/bash\ncat {slurm.folder}/array-*/alive >> {tmp_path}/seen; echo >> {tmp_path}/seen\n"
        f'[ $(wc -l < {tmp_path}/seen) -gt 4 ] && exec bash {tmp_path}/squeue "$@"\nexit 1\n'
    )
    given = put(PROMPTS.example(4), str(tmp_path / "given"), 2)
    slow = Slow(column="prompt_id")
    assert apply(slow, given, str(tmp_path / "out"), executor=slurm).num_rows == 4
    seen = [int(line) for line in (tmp_path / "seen").read_text().split()][:5]
    assert len(seen) == 5 and seen == sorted({*seen})


def test_a_piece_is_claimed_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that is killed between two of its calls leaves no claim of nobody."""
    folder = ArrayFolder(tmp_path)
    for part in ("claims", "tasks"):
        (tmp_path / part).mkdir()
    assert folder.claim(1, "41_0") and not folder.claim(1, "41_1") and folder.claim(2, "41_1")
    assert folder.claims() == {1: "41_0", 2: "41_1"}
    for piece, name in enumerate(("link", "fdopen", "replace"), 3):
        with monkeypatch.context() as killed, suppress(KeyboardInterrupt):
            killed.setattr(os, name, _killed)
            folder.claim(piece, f"41_{name}")
        assert "" not in folder.claims().values(), name


def _killed(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_a_task_that_nobody_waits_for_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one whose folder is gone."""
    left = list[int]()

    def leave(code: int) -> None:
        left.append(code)
        raise SystemExit

    monkeypatch.setattr(array_task.os, "_exit", leave)
    monkeypatch.setattr(array_task, "_ALONE_SECONDS", 0.2)
    monkeypatch.setattr(array_task, "_SIGN_SECONDS", 0.05)
    folder = ArrayFolder(tmp_path / "array")
    for part in ("signs", "ask", "stacks"):
        (folder.path / part).mkdir(parents=True)
    folder.live(1)
    task = array_task._Task(folder, "41_0")
    task.piece, task.rows = 3, 5
    _quietly(task.watch)
    assert left == [1] and folder.signs()["41_0"].rows == 5
    _quietly(array_task._Task(ArrayFolder(tmp_path / "gone"), "41_0").watch)
    assert left == [1, 1]


def _quietly(watch: Callable[[], None]) -> None:
    with pytest.raises(SystemExit):
        watch()


def test_the_folder_is_its_users_alone(tmp_path: Path) -> None:
    """What lies in it is unpickled."""
    folder = ArrayFolder(tmp_path / "array")
    folder.path.mkdir(mode=0o700)
    (folder.path / "job").write_bytes(b"x" * 40)
    with pytest.raises(IntegrityError, match="was changed"):
        folder.job()
    folder.path.chmod(0o755)
    with pytest.raises(IntegrityError, match="not its user's alone"):
        folder.job()
    (folder.path / "signs").mkdir()
    folder.sign("41_1", Sign(2, 7, 1.5))
    (folder.path / "signs" / "41_2").write_text("torn")
    assert folder.signs() == {"41_1": Sign(2, 7, 1.5)}


def test_a_root_that_nodes_do_not_share_is_refused() -> None:
    with pytest.raises(ConfigError, match="remote-root"):
        meeting_place("s3://bucket/data")
    assert meeting_place("data") == os.path.abspath("data/_slurm")


@pytest.mark.slow
def test_a_command_runs_its_stages_in_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_slurm(tmp_path, monkeypatch)
    rows = "".join(f'{{"prompt": "q {number}", "response": "a"}}\n' for number in range(40))
    made = {}
    for executor in ("local", "slurm"):
        folder = tmp_path / executor
        folder.mkdir()
        (folder / "rows.jsonl").write_text(rows)
        (folder / "luigi.cfg").write_text(
            f"[quiver]\nexecutor = {executor}\nprocesses = 2\n[launch]\npoll_seconds = 1\n"
        )
        command = [sys.executable, "-m", "quiver", "Label", "--op", "length", "--data", "rows.jsonl"]
        subprocess.run(command, cwd=folder, check=True, timeout=600)
        made[executor] = sorted(path.name for path in (folder / "quiver-data").rglob("*-????????"))
        assert not list((folder / "quiver-data" / "_slurm").glob("*"))
    assert made["local"] == made["slurm"]
