"""Work spread over processes: each takes the next piece, and pieces come back in any order.

Workers come from a fork server (never a fork of this process, whose threads would be lost in it), open the
resources once, and leave with the process that started them, however it ends.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any, ClassVar

from datakit.overlap import overlapped
from datakit.run.output import Done
from datakit.run.progress import INTERVAL, Reporter
from datakit.run.resource import close_all, open_all
from datakit.run.shapes import failed, kept_by
from datakit.run.watch import StackFile, Watch, busy_seconds, tell_stacks
from datakit.run.work import Advance, Asked, Job, work
from schemas.errors import ConfigError, QuiverError, WorkerError, printable
from schemas.process.interpreter import safe_children
from schemas.process.parent import end_with_parent

_HOME = os.getpid()
_GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Local:
    """`processes` workers on this machine, or this process where it is 0. `environments`: what each worker sets before
    it opens resources.
    """

    processes: int = 0
    environments: Sequence[Mapping[str, str]] = ()
    name: ClassVar[str] = "local"

    def __post_init__(self) -> None:
        assert self.processes >= 0 and len(self.environments) in (0, self.processes), self

    def run(self, job: Job, reporter: Reporter) -> Iterator[list[Done]]:
        """The finished pieces of `job`, as they finish."""
        if self.processes == 0 or job.tasks == 0:
            yield from _inline(job, reporter)
        else:
            yield from _pooled(job, min(self.processes, job.tasks), self.environments, reporter)


def _inline(job: Job, reporter: Reporter) -> Iterator[list[Done]]:
    if job.tasks > 1 and not job.op.needs:
        yield from _overlapped(job, reporter)
        return
    opened = open_all(job.resources)
    asked = asked_ahead(job, opened, reporter.advance, range(job.tasks))
    try:
        for index in range(job.tasks):
            yield work(job, index, opened, reporter.advance, asked=asked)
    finally:
        if asked is not None:
            asked.close()
        close_all(opened)


def asked_ahead(job: Job, opened: Mapping[str, Any], advance: Advance, shards: Sequence[int]) -> Asked | None:
    """The chunks of these shards asked ahead, where what they are asked of takes more than one call at a time."""
    return Asked(job, opened, advance, shards) if job.concurrency > 1 else None


def _overlapped(job: Job, reporter: Reporter) -> Iterator[list[Done]]:
    """One piece is read or written while the operation, which runs in one thread at a time, is at another."""
    turn = threading.Lock()
    yield from overlapped(lambda index: work(job, index, {}, reporter.advance, turn), job.tasks)


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    pipe: Connection
    piece: int | None = None
    began: bool = False


def _pooled(
    job: Job, processes: int, environments: Sequence[Mapping[str, str]], reporter: Reporter
) -> Iterator[list[Done]]:
    context = _context()
    workers: list[_Worker] = []
    pieces = iter(range(job.tasks))
    stacks = StackFile() if job.hang_seconds is not None else None
    watch = Watch(job, busy_seconds, stacks.asked if stacks else lambda _: b"")
    try:
        for number in range(processes):
            environment = environments[number] if environments else {}
            worker = _start(context, job, environment, processes, stacks.path if stacks else "")
            workers.append(worker)
            _hand_out(worker, pieces)
        while busy := [worker for worker in workers if worker.piece is not None]:
            pipes = {worker.pipe: worker for worker in busy}
            for pipe in wait(list(pipes), timeout=INTERVAL):
                watch.progressed(pipes[pipe].process.pid or 0)  # type: ignore[index]
                done = _receive(pipes[pipe], job, reporter)  # type: ignore[index]
                if done is not None:
                    _hand_out(pipes[pipe], pieces)  # type: ignore[index]
                    yield done
            reporter.reach(reporter.rows)
            pids = {worker.process.pid: worker.piece for worker in busy}
            watch.check({pid: piece for pid, piece in pids.items() if pid is not None and piece is not None})
        for worker in workers:
            worker.process.join(_GRACE_SECONDS)
    finally:
        for worker in workers:
            if worker.process.is_alive():
                worker.process.kill()
            worker.pipe.close()
            worker.process.join()
        if stacks:
            stacks.close()


def _start(context: BaseContext, job: Job, environment: Mapping[str, str], processes: int, stacks: str) -> _Worker:
    mine, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(job, theirs, environment, processes, stacks))  # type: ignore[attr-defined]
    try:
        with safe_children():
            process.start()
    except OSError:
        raise
    except Exception as fault:
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise _not_started("this script starts worker processes whenever it is imported, as workers do") from fault
        raise not_picklable(job) from fault
    finally:
        theirs.close()
    return _Worker(process, mine)


def not_picklable(job: Job) -> ConfigError:
    """What to say of work that cannot be sent to another process: which part, and why as far as its name tells."""
    parts = {job.op.name: job.op, **{f"its resource {name}": one.open for name, one in job.resources.items()}}
    name, part = next(((name, part) for name, part in parts.items() if not _travels(part)), (job.op.name, job.op))
    known = getattr(part, "__qualname__", type(part).__qualname__)
    hidden = "<" in known
    why = (
        "a lambda, or stands inside a function, where no other process finds it" if hidden else "bound to this process"
    )
    return ConfigError(
        "not-picklable",
        f"{job.op.name} cannot be sent to a worker process: {name} ({printable(known)}) is {why}",
        expected="operations and resources made of classes and functions at the top level of a module",
        kept="nothing was started",
        next="put it at the top level of a module or of your script, arguments in functools.partial, or work here with "
        "processes=0",
    )


def _travels(part: object) -> bool:
    try:
        ForkingPickler.dumps(part)
    except Exception:  # whatever a class raises that is asked for its state
        return False
    return True


def _hand_out(worker: _Worker, pieces: Iterator[int]) -> None:
    """Give the worker its next piece, or None, at which it goes home."""
    worker.piece = next(pieces, None)
    with suppress(BrokenPipeError):
        worker.pipe.send(worker.piece)


def _receive(worker: _Worker, job: Job, reporter: Reporter) -> list[Done] | None:
    """Take one message: rows done (None is returned), a finished piece, or an error, which is raised."""
    try:
        message = worker.pipe.recv()
    except (EOFError, ConnectionResetError) as fault:
        worker.process.join(_GRACE_SECONDS)
        raise _died(worker, job) from fault
    worker.began = True
    if isinstance(message, BaseException):
        raise message
    if isinstance(message, int):
        reporter.advance(message)
        return None
    done: list[Done] = message
    return done


def _not_started(what: str) -> WorkerError:
    return WorkerError(
        "worker-not-started",
        what,
        expected="a script whose work stands under `if __name__ == '__main__':`, and functions of a module",
        found="a script without that line, or a function of a notebook or of standard input",
        kept="nothing of this output",
        next="put the work under `if __name__ == '__main__':` and functions into a module, or work here: processes=0",
    )


def _died(worker: _Worker, job: Job) -> WorkerError:
    code = worker.process.exitcode or 0
    if not worker.began and code > 0:
        return _not_started(f"a worker process ended with {code} before its work began: it imports what started it")
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
    return WorkerError(
        "oom" if code == -signal.SIGKILL else "worker-died",
        f"a worker was {how} while it did piece {worker.piece} of {job.op.name}",
        expected="workers that live until their work is done",
        found=f"exit code {code}" + (", as the system does when memory runs out" if code == -signal.SIGKILL else ""),
        kept=kept_by(job.op),
        next="run the same command again with fewer processes",
    )


def _context() -> BaseContext:
    """A fork server; a fresh interpreter where this process is a fork, which cannot use its parent's."""
    return multiprocessing.get_context("forkserver" if os.getpid() == _HOME else "spawn")


def _serve(job: Job, pipe: Connection, environment: Mapping[str, str], processes: int, stacks: str) -> None:
    """A worker: does one piece after another, until there is none or its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    tell_stacks(stacks)
    end_with_parent()
    share_cores(max(1, (os.cpu_count() or 1) // processes))
    os.environ.update(environment)
    opened: dict[str, Any] = {}
    asked: Asked | None = None
    try:
        pipe.send(0)
        index = pipe.recv()
        if index is not None:
            opened = open_all(job.resources)
        while index is not None:
            if asked is None or processes > 1:  # a worker alone does every shard, in order
                asked = asked_ahead(job, opened, pipe.send, [index] if processes > 1 else range(job.tasks))
            pipe.send(work(job, index, opened, pipe.send, asked=asked))
            index = pipe.recv()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except BaseException as fault:
        if asked is not None:
            asked.close()  # before the parent knows, and ends this process: what is under way is paid for
        pipe.send(fault if isinstance(fault, QuiverError) else failed(job.op, fault, "a worker", job.chunks.url))
    finally:
        if asked is not None:
            asked.close()
        close_all(opened)


def share_cores(share: int) -> None:
    """In a worker: libraries that start a thread per core start `share` of them."""
    import pyarrow as pa

    pa.set_cpu_count(share)
    for name in ("POLARS_MAX_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, str(share))
