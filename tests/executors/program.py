"""A program on Ray, which prints what came of it as JSON: python -m tests.executors.program CASE FOLDER.

Ray takes signals and hooks of its process for itself, so no process of tests imports it.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import psutil
import pyarrow as pa

from datakit.apply import apply
from datakit.blend import Mix, Shuffle
from datakit.clients import TOKENIZED_PROMPTS, Sampling
from datakit.filter import DedupExact, Where
from datakit.generate import Complete
from datakit.label import Length
from datakit.op import Context, Op
from datakit.run.on_ray import OnRay
from datakit.run.progress import Progress
from datakit.run.ray_cluster import own_cluster
from datakit.run.resource import Resource
from datakit.template import Chat
from datakit.tokenize import Mask
from schemas import PROMPTS, Schema
from schemas.dataset import Attempt, Dataset
from schemas.errors import QuiverError
from tests.datakit.fakes import Dies, EchoGenerator, Fails, generator, pieces, prompts, scored, tokenizer

SHARDS = 64


def put(table: pa.Table, url: str, shards: int = SHARDS) -> Dataset:
    """`table` as a dataset of so many shards."""
    schema, each = Schema.of_arrow(table.schema), -(-table.num_rows // shards)
    attempt, files = Attempt.begin(url, schema), []
    for index in range(shards):
        writer = attempt.shard(index)
        writer.write(schema.conform(table.slice(index * each, each)))
        files.append(writer.finish())
    return attempt.commit(files)


STAGES: dict[str, tuple[Op, tuple[Callable[[], pa.Table], ...], Callable[[], Mapping[str, Resource]]]] = {
    "generate": (Complete(rows_per_chunk=2), (lambda: prompts(320),), generator),
    "label": (Length(column="prompt_id"), (lambda: PROMPTS.example(256),), dict),
    "filter": (Where(predicate="reward > 1 AND sample_index < 2"), (lambda: scored(128),), dict),
    "dedup": (DedupExact(columns=("reward", "prompt_id")), (lambda: scored(128),), dict),
    "shuffle": (Shuffle(), (lambda: PROMPTS.example(256),), dict),
    "mix": (Mix(sources=("a", "b"), weights=(0.7, 0.3)), (lambda: scored(64), lambda: scored(128)), dict),
    "template": (Chat(generation=True, template="chatml"), (lambda: PROMPTS.example(256),), tokenizer),
    "tokenize": (Mask(append_eos=True), (lambda: pieces(256),), tokenizer),
}


def same_bytes(folder: Path) -> Any:
    """The digests of every stage, by the local executor and on Ray."""
    stages = {}
    with own_cluster(2):
        started = psutil.Process().children(recursive=True)
        listening = sorted({place.ip.removeprefix("::ffff:") for place in _listening()})
        for name, (op, tables, resources) in STAGES.items():
            given = [put(table(), str(folder / f"{name}-{number}")) for number, table in enumerate(tables)]
            run = functools.partial(apply, op, given, resources=resources(), seed=3, rows_per_shard=40)
            local, ray = run(into=str(folder / f"{name}-local")), run(into=str(folder / name), executor=OnRay())
            stages[name] = [[one.content_digest, *(file.sha256 for file in one.shards)] for one in (local, ray)]
    return {"stages": stages, "listening": listening, "left": [one.pid for one in started if one.is_running()]}


def _listening() -> list[Any]:
    whole = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return [one.laddr for process in whole for one in process.net_connections() if one.status == psutil.CONN_LISTEN]


class DiesOnce(EchoGenerator):
    """Kills its process at one prompt, unless `marker` is there already, which it makes."""

    def __init__(self, log: str, marker: str) -> None:
        super().__init__(log)
        self.marker = marker

    def generate(self, rows: pa.Table, sampling: Sampling, seeds: np.ndarray) -> pa.Table:
        if any(ids[0] == 40 for ids in rows["prompt_ids"].to_pylist()):
            try:
                os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
                os.kill(os.getpid(), signal.SIGKILL)
            except FileExistsError:
                pass
        return super().generate(rows, sampling, seeds)


def worker_killed(folder: Path) -> Any:
    """Whether digests are the same where a worker is killed, and how often each prompt was asked."""
    given, op = put(prompts(96), str(folder / "given"), 4), Complete(rows_per_chunk=3)
    log, marker = str(folder / "log"), str(folder / "marker")
    model = Resource("echo", functools.partial(DiesOnce, log, marker), TOKENIZED_PROMPTS)
    rows: list[int] = []
    with own_cluster(2):
        ray = apply(
            op, given, str(folder / "ray"), resources={"generator": model}, seed=3, executor=OnRay(),
            on_progress=lambda progress: rows.append(progress.rows),
        )  # fmt: skip
    asked = Counter(Path(log).read_text().split())
    local = apply(op, given, str(folder / "local"), resources=generator(), seed=3)
    digests = [local.content_digest, ray.content_digest]
    return {"digests": digests, "killed": os.path.exists(marker), "asked": asked, "rows": rows[-1]}


@dataclass(frozen=True, kw_only=True)
class Slow(Length):
    """The length, after half a second."""

    name: ClassVar[str] = "test.slow"

    def label(self, rows: pa.Table, ctx: Context) -> dict[str, pa.Array]:
        time.sleep(0.5)
        return super().label(rows, ctx)


def node_lost(folder: Path) -> Any:
    """Digests where one of four nodes goes while it works, and how many workers were replaced."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    others = [cluster.add_node(**node) for _ in range(3)]
    given, op, seen = put(PROMPTS.example(256), str(folder / "given")), Slow(column="prompt_id"), list[Progress]()
    gone = threading.Thread(target=cluster.remove_node, args=(others[0],), kwargs={"allow_graceful": False})

    def lose(progress: Progress) -> None:
        seen.append(progress)
        if progress.rows > 40 and not gone.ident:
            gone.start()

    try:
        ray.init(address=cluster.address, log_to_driver=False)
        made = apply(op, given, str(folder / "ray"), executor=OnRay(), on_progress=lose)
        gone.join()
        local = apply(op, given, str(folder / "local"), processes=4)
    finally:
        ray.shutdown()
        cluster.shutdown()
    digests = [local.content_digest, made.content_digest]
    return {"digests": digests, "lost": seen[-1].lost, "rows": seen[-1].rows}


def failures(folder: Path) -> Any:
    """The errors of a worker that always dies, of a row that fails, and of a worker that hangs."""
    given, errors = put(PROMPTS.example(24), str(folder / "given"), 4), []
    broken = [(Dies(at="prompt_id 7"), None), (Fails(at="prompt_id 7"), None), (Dies(at="", seconds=600), 2)]
    with own_cluster(2):
        for number, (op, hang) in enumerate(broken):
            try:
                apply(op, given, str(folder / f"out-{number}"), executor=OnRay(), hang_seconds=hang)
            except QuiverError as error:
                stacks = Path(error.where).read_text() if os.path.isfile(error.where) else ""
                errors.append([error.code, error.slug, error.what, stacks])
    return {"errors": errors, "left": sorted(path.name for path in folder.iterdir())}


def works_until_killed(folder: Path) -> Any:
    """Works for ever."""
    with own_cluster(2):
        (folder / "pids").write_text(" ".join(str(one.pid) for one in psutil.Process().children(recursive=True)))
        apply(Dies(at="", seconds=3600), put(PROMPTS.example(4), str(folder / "given"), 2), str(folder / "out"),
              executor=OnRay())  # fmt: skip


CASES = (same_bytes, worker_killed, node_lost, failures, works_until_killed)

if __name__ == "__main__":
    from tests.executors import program  # an operation of a script is none that workers can import

    case = next(one for one in program.CASES if one.__name__ == sys.argv[1])
    print(json.dumps(case(Path(sys.argv[2]))))
