"""Work on a Ray cluster: each worker is an actor that opens the resources once (one model an actor, on the GPUs that
its backend asks for) and does one piece after another, wherever the cluster has room.

Names travel, no tables: a worker reads its shard and writes its shard below the root, which all nodes see, and answers
with what the manifest says of it. Whoever started it asks for signs of life meanwhile. A worker that is lost, with its
process or with its node, is replaced, and its piece is done again: the shard that it left is written over by the same
bytes, and what was paid for is found among the kept chunks.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, ClassVar

from datakit.run.output import Done
from datakit.run.progress import INTERVAL, Reporter
from datakit.run.ray_cluster import connected
from datakit.run.resource import close_all, open_all
from datakit.run.runner import asked_ahead, not_picklable, share_cores
from datakit.run.shapes import failed, kept_by
from datakit.run.watch import DUMP_SECONDS, START_SECONDS, Watch
from datakit.run.work import Asked, Job, work
from schemas.errors import QuiverError, WorkerError, printable
from schemas.process.interpreter import importable

_RETRIES = 3
"""How often a piece is done again whose worker was lost."""

_SIGNS = "signs"
"""The thread of an actor that answers while its other one works."""


@dataclass(frozen=True)
class OnRay:
    """Workers on the cluster at `address` (see `datakit.run.ray_cluster.connected`): `processes` of them, or for 0 as
    many as it has room for; never more than `most`. Each has `gpus` GPUs, or all of a node that has fewer, and no other
    worker sees these; where no node has any, it does without.
    """

    address: str = ""
    processes: int = 0
    most: int | None = None
    gpus: int = 0
    name: ClassVar[str] = "ray"

    def run(self, job: Job, reporter: Reporter) -> Iterator[list[Done]]:
        """The finished pieces of `job`, as they finish."""
        if job.tasks == 0:
            return
        with connected(self.address) as ray:
            workers, room = self._room(ray, job.tasks)
            crew = _Crew(ray, job, reporter, room)
            try:
                for _ in range(workers):
                    crew.start()
                yield from crew.pieces(alone=workers == 1)
            finally:
                crew.end()

    def _room(self, ray: ModuleType, tasks: int) -> tuple[int, dict[str, float]]:
        """How many workers, and the CPUs and GPUs of each: as on one machine, few pieces share all of its cores."""
        nodes: list[Mapping[str, float]] = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = ([int(node.get(kind, 0)) for node in nodes] for kind in ("CPU", "GPU"))
        each = min(self.gpus, max(gpus, default=0))
        slots = sum(have // each for have in gpus) if each else sum(cpus)
        workers = max(1, min(slots, tasks, self.processes or slots, slots if self.most is None else self.most))
        return workers, {"num_cpus": max(1, min(max(cpus, default=1), sum(cpus) // workers)), "num_gpus": each}


class _Actor:
    """A worker, in a process that Ray started for it."""

    def __init__(self) -> None:
        self._opened: dict[str, Any] | None = None
        self._asked: Asked | None = None
        self._piece, self._rows = -1, 0

    def open(self, path: Sequence[str], folder: str, job: Sequence[Any], cores: int) -> None:
        """Get ready: import what whoever started it can, in its folder; `job` is a reference to the job."""
        import ray

        sys.path += [place for place in path if place not in sys.path]
        with suppress(OSError):
            os.chdir(folder)
        share_cores(cores)
        self._job: Job = ray.get(job[0])

    def do(self, piece: int, ahead: Sequence[int]) -> tuple[int, list[Done] | QuiverError]:
        """Rows done, and the finished piece or what went wrong; `ahead` are pieces to ask ahead from now on."""
        self._piece, self._rows = piece, 0
        try:
            if self._opened is None:
                self._opened = open_all(self._job.resources)
            if ahead:
                self._asked = asked_ahead(self._job, self._opened, self._advance, ahead)
            done = work(self._job, piece, self._opened, self._advance, asked=self._asked)
            return self._rows, done
        except BaseException as fault:
            self.close()
            job = self._job
            return 0, fault if isinstance(fault, QuiverError) else failed(job.op, fault, "a worker", job.chunks.url)

    def _advance(self, rows: int) -> None:
        self._rows += rows

    def sign(self) -> tuple[int, int, float]:
        """The piece that it is at, the rows done of it, and the processor time used."""
        return self._piece, self._rows, time.process_time()

    def stacks(self) -> bytes:
        """What all threads are at."""
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file, all_threads=True)
            file.seek(0)
            return file.read()

    def close(self) -> None:
        """Wait for what is under way, which is paid for, and close the resources."""
        if self._asked is not None:
            self._asked.close()
        close_all(self._opened or {})
        self._asked = self._opened = None


@dataclass(eq=False)
class _Worker:
    actor: Any
    ready: bool = False
    piece: int | None = None
    rows: int = 0
    busy_seconds: float = 0.0
    asked: bool = False
    """Whether it owes a sign."""


Answer = Callable[[Any], list[Done] | None]
"""What is done with an answer of a worker."""


class _Crew:
    """The workers of one job, what they owe, and the pieces that are left."""

    def __init__(self, ray: ModuleType, job: Job, reporter: Reporter, room: Mapping[str, float]) -> None:
        self.ray, self.job, self.reporter, self.room = ray, job, reporter, room
        self.watch = Watch[_Worker](job, lambda worker: worker.busy_seconds, self._stacks)
        self.kind = ray.remote(concurrency_groups={_SIGNS: 1}, max_restarts=0, **room)(_Actor)
        try:
            self.sent = ray.put(job)
        except Exception as fault:  # whatever a class raises that is asked for its state
            raise not_picklable(job) from fault
        self.workers: list[_Worker] = []
        self.owed: dict[Any, tuple[_Worker, Answer]] = {}
        self.waiting = deque(range(job.tasks))
        self.lost = Counter[int | None]()
        self.alone = False
        self._signs, self._idle_since = 0.0, time.monotonic()

    def start(self) -> None:
        """One more worker; it gets a piece when it is up."""
        worker = _Worker(self.kind.options(scheduling_strategy="SPREAD").remote())
        self.workers.append(worker)
        cores = int(self.room["num_cpus"])
        opened = worker.actor.open.remote(importable().split(os.pathsep), os.getcwd(), [self.sent], cores)
        self.owed[opened] = worker, partial(self._up, worker)

    def pieces(self, *, alone: bool) -> Iterator[list[Done]]:
        """The finished pieces; `alone`: one worker does all of them, in order, and may ask over their borders."""
        self.alone, left = alone, self.job.tasks
        while left:
            ready, _ = self.ray.wait(list(self.owed), num_returns=1, timeout=INTERVAL)
            for ref in ready:
                done = self._answered(ref)
                if done is not None:
                    left -= 1
                    yield done
            self._ask_for_signs()
            self.reporter.reach(self.reporter.rows)
            self.watch.check({one: one.piece for one in self.workers if one.piece is not None})
            self._check_room()

    def end(self) -> None:
        """End all workers at once, whatever they are at."""
        for worker in self.workers:
            with suppress(self.ray.exceptions.RayError):
                self.ray.kill(worker.actor)

    def _answered(self, ref: Any) -> list[Done] | None:
        worker, then = self.owed.pop(ref)
        try:
            value = self.ray.get(ref)
        except self.ray.exceptions.RayTaskError as fault:  # not of the work, which tells it as a value
            raise _not_started(self.job, fault) from fault
        except self.ray.exceptions.RayError as fault:
            self._replace(worker, fault)
            return None
        return then(value)

    def _up(self, worker: _Worker, _: None) -> None:
        worker.ready = True
        self._hand_out(worker, first=True)

    def _hand_out(self, worker: _Worker, *, first: bool = False) -> None:
        """Give the worker its next piece; where there is none it closes what it opened, and goes home."""
        worker.piece, worker.rows = (self.waiting.popleft() if self.waiting else None), 0
        if worker.piece is None:
            self.owed[worker.actor.close.remote()] = worker, partial(self._home, worker)
            return
        self.watch.progressed(worker)
        ahead = [worker.piece, *(self.waiting if self.alone else ())] if first or not self.alone else []
        self.owed[worker.actor.do.remote(worker.piece, ahead)] = worker, partial(self._done, worker)

    def _done(self, worker: _Worker, answer: tuple[int, list[Done] | QuiverError]) -> list[Done]:
        rows, done = answer
        if isinstance(done, QuiverError):
            raise done
        self.reporter.advance(rows - worker.rows)
        self._hand_out(worker)
        return done

    def _home(self, worker: _Worker, _: None = None) -> None:
        self.workers.remove(worker)
        self.ray.kill(worker.actor)

    def _replace(self, worker: _Worker, fault: Exception) -> None:
        """Another worker for one that is lost; its piece is the next that is handed out."""
        self.owed = {ref: owed for ref, owed in self.owed.items() if owed[0] is not worker}
        self._home(worker)
        if worker.ready and worker.piece is None:
            return
        self.reporter.lost += 1
        self.reporter.advance(-worker.rows)
        self.lost[worker.piece] += 1
        if self.lost[worker.piece] > _RETRIES:
            raise _died(self.job, worker.piece, fault)
        if worker.piece is not None:
            self.waiting.appendleft(worker.piece)
        self.start()

    def _ask_for_signs(self) -> None:
        now = time.monotonic()
        if now - self._signs < INTERVAL:
            return
        self._signs = now
        for worker in self.workers:
            if worker.piece is not None and not worker.asked:
                worker.asked = True
                ref = worker.actor.sign.options(concurrency_group=_SIGNS).remote()
                self.owed[ref] = worker, partial(self._signed, worker)

    def _signed(self, worker: _Worker, sign: tuple[int, int, float]) -> None:
        piece, rows, worker.busy_seconds = sign
        worker.asked = False
        if piece == worker.piece and rows > worker.rows:
            self.reporter.advance(rows - worker.rows)
            worker.rows = rows
            self.watch.progressed(worker)

    def _stacks(self, worker: _Worker) -> bytes:
        try:
            ref = worker.actor.stacks.options(concurrency_group=_SIGNS).remote()
            stacks: bytes = self.ray.get(ref, timeout=DUMP_SECONDS)
        except self.ray.exceptions.RayError:
            return b""
        return stacks

    def _check_room(self) -> None:
        """Raise `WorkerError` where pieces wait, and for long no worker has come up."""
        if any(worker.ready for worker in self.workers):
            self._idle_since = time.monotonic()
        elif time.monotonic() - self._idle_since > START_SECONDS:
            raise WorkerError(
                "ray-full",
                f"no worker for {self.job.op.name} came up in {START_SECONDS:.0f} s",
                expected=", ".join(f"{name} {value:g}" for name, value in self.room.items()),
                found=printable(self.ray.available_resources(), 300),
                kept=kept_by(self.job.op),
                next="ray status: wait for room, or add nodes; then run the same command again",
            )


def _not_started(job: Job, fault: Exception) -> WorkerError:
    return WorkerError(
        "worker-not-started",
        f"a worker on Ray cannot do {job.op.name}: {printable(str(fault).strip().rpartition(chr(10))[2], 300)}",
        expected="this program, the modules of your functions and the root below the same paths on every node",
        kept=kept_by(job.op),
        next="install the same version on all nodes, or work on this machine: executor = local",
    )


def _died(job: Job, piece: int | None, fault: Exception) -> WorkerError:
    memory = "out of memory" in str(fault).lower() or type(fault).__name__ == "OutOfMemoryError"
    what = "before their work began" if piece is None else f"while they did piece {piece} of {job.op.name}"
    return WorkerError(
        "oom" if memory else "worker-died",
        f"{_RETRIES + 1} workers were lost {what}",
        expected="workers that live until their work is done",
        found=printable(str(fault).strip().partition("\n")[0], 300),
        kept=kept_by(job.op),
        next="run the same command again with fewer processes",
    )
