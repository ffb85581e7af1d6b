"""What happens around `luigi --module pipelines ...`: checks before, quiet during, errors and the report after.

Luigi's command line calls `luigi.interface._run`; `install` puts `run` in its place. The rest stays Luigi's:
parameters, scheduler, workers. Errors of ours end the process with their own exit code and their five lines; a bug of
ours ends it with 1, one line and a file that holds the traceback.
"""

from __future__ import annotations

import difflib
import inspect
import json
import logging
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import luigi
import luigi.configuration
import luigi.interface
from luigi.cmdline_parser import CmdlineParser
from luigi.execution_summary import LuigiRunResult, _get_external_workers
from luigi.parameter import ParameterException
from luigi.rpc import RPCError
from luigi.task_register import Register, TaskClassNotFoundException

from pipelines.runtime import invocation, parameters, settings
from pipelines.runtime.console import say, say_error
from pipelines.runtime.logfile import LogFile
from pipelines.runtime.processes import start_whole
from schemas.errors import ConfigError, ConflictError, QuiverError, ServiceError, Stopped, WorkerError, printable
from schemas.process import program
from schemas.store.ownfiles import own_folder, replace_file
from trainers import doors

_LOG = logging.getLogger("luigi-interface")
_OTHERS_SECONDS = 2.0
_RUNS = threading.Lock()
"""Luigi's parser, and the command that was given, are there once in a process."""

T = TypeVar("T")


def install() -> None:
    """Make `run` what Luigi's command line calls, and let it find out about unknown tasks in our words."""
    luigi.interface._run = door if doors.is_command() else run  # type: ignore[assignment]
    find = Register.get_task_cls

    def get_task_cls(name: str) -> type[luigi.Task]:
        try:
            return find(name)
        except TaskClassNotFoundException:
            raise _UnknownTask(name) from None

    Register.get_task_cls = staticmethod(get_task_cls)  # type: ignore[method-assign,assignment]
    start_whole()
    parameters.install()
    hide_logs()


class _UnknownTask(SystemExit, TaskClassNotFoundException):
    """Ends a command line that names no task with exit code 2; for everyone else it is Luigi's own exception."""

    def __init__(self, name: str) -> None:
        super().__init__(ConfigError.code)
        kinds = {name: kind for name, kind in Register._get_reg().items() if isinstance(kind, type)}
        ours = sorted(
            name for name, kind in kinds.items()
            if hasattr(kind, "before") and not inspect.isabstract(kind) and not name.startswith("_")
        )  # fmt: skip
        near = near_task(name, ours)
        error = ConfigError(
            "unknown-task",
            f"there is no task {printable(name)}{f' (did you mean {near}?)' if near else ''}",
            expected="" if near else ", ".join(ours),
            kept="nothing was started",
            next=invocation.renamed(name, near) if near else "luigi --module pipelines --help",
        )
        say_error(error)


def near_task(name: str, known: Sequence[str]) -> str:
    """The known task that `name` is likeliest to mean, whatever its case; a whole word of a task's name will do."""
    folded = {task.lower(): task for task in known}
    near = difflib.get_close_matches(name.lower(), list(folded), 1, 0.7)
    if near:
        return folded[near[0]]
    parts = [task for lower, task in folded.items() if len(name) > 2 and name.lower().replace("_", "") in lower]
    return min(parts, key=len, default="")


def hide_logs() -> None:
    """Keep Luigi's own lines off the screen; they go to the run's log file once there is one."""
    _LOG.propagate = False
    if not _LOG.handlers:
        _LOG.addHandler(logging.NullHandler())


def door(cmdline_args: Sequence[str] | None = None, *_: object, **__: object) -> NoReturn:
    """`run` as a program, which leaves with its exit code and not through Luigi's."""

    def main() -> int:
        run(cmdline_args)
        return 0

    program.run(main)


def run(cmdline_args: Sequence[str] | None = None, *_: object, **__: object) -> LuigiRunResult:
    """Parse, check, run, report. Raises `SystemExit` with the exit code unless everything asked for exists."""
    handlers = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        return execute(list(sys.argv[1:] if cmdline_args is None else cmdline_args), _report)
    except QuiverError as error:
        error.next = _next(error)
        say_error(error)
        raise SystemExit(error.code) from None
    except (SystemExit, KeyboardInterrupt) as exit_:
        if isinstance(exit_, KeyboardInterrupt) or _running.stop_requested:
            say_error(_stopped())
            raise SystemExit(Stopped.code) from None
        raise
    except Exception as fault:
        if program.reader_is_gone(fault):
            raise SystemExit(0) from None
        disk = program.disk_fault(fault)
        if disk is not None:
            say_error(disk)
            raise SystemExit(disk.code) from None
        raise SystemExit(_own_bug(traceback.format_exc())) from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _next(error: QuiverError) -> str:
    """What to do: what the error says; for a setting with a near name the command with that name; where a command line
    is wrong in another way, the page about it.
    """
    if error.slug == "several-matches":
        several = invocation.task() in ("Import", "Blend")
        places = error.found.split(", ")
        return invocation.renamed(error.what.partition(" matches ")[0], ",".join(places) if several else places[-1])
    near = re.search(r" \(did you mean (\S+)\?\)$", error.what)
    if near and error.slug in ("no-such-file", "not-found", "no-function"):
        return invocation.mended(error.what, near[1]) or error.next
    unknown = re.findall(r"unknown key (\S+)(?: \(did you mean (\S+)\?\))?", error.what)
    if not isinstance(error, ConfigError) or not invocation.task() or "--" in error.next:
        return error.next
    corrected = invocation.corrected(*unknown[0]) if len(unknown) == 1 and unknown[0][1] else ""
    return corrected or error.next or invocation.typed(f"{invocation.task()} --help")


def execute(arguments: Sequence[str], then: Callable[[luigi.Task, LuigiRunResult], T]) -> T:
    """Parse, check and run; `then` is asked for the answer while the settings of the command line hold.

    Nothing is left of a run when this returns or raises: no task, no log file, no signal handler of Luigi's. Raises
    the `QuiverError` of what failed, and whatever else is raised in this process.
    """
    if not _RUNS.acquire(blocking=False):
        raise ConflictError(
            "busy",
            "another thread of this process is at a run",
            expected="one run at a time in a process",
            kept="nothing was started",
            next="wait for it, or start the other one as a process of its own",
        )
    try:
        return _executed(arguments, then)
    finally:
        _RUNS.release()


def _executed(arguments: Sequence[str], then: Callable[[luigi.Task, LuigiRunResult], T]) -> T:
    main = threading.current_thread() is threading.main_thread()
    invocation.given(arguments)
    Register.clear_instance_cache()
    luigi.configuration.get_config().set("worker", "no_install_shutdown_handler", "false" if main else "true")
    handler, log_handlers = signal.getsignal(signal.SIGUSR1), list(_LOG.handlers)
    try:
        with CmdlineParser.global_instance(list(arguments)) as parser:
            settings.check()
            _check_scheduler()
            task = _task(parser)
            before = getattr(task, "before", None)
            if before is not None:
                before()
            log = _log_to_file()
            result = _scheduled(task)
            _raise_failures(task, result, log)
            return then(task, result)
    except RPCError as error:
        raise _no_scheduler(str(error.sub_exception or error)) from None
    finally:
        if main:
            signal.signal(signal.SIGUSR1, handler)
        for one in set(_LOG.handlers) - set(log_handlers):
            _LOG.removeHandler(one)
            one.close()


def _report(task: luigi.Task, result: LuigiRunResult) -> LuigiRunResult:
    after = getattr(task, "after", None)
    if after is not None and task.complete():
        after()
    return result


def _scheduled(task: luigi.Task) -> LuigiRunResult:
    """Schedule and run `task`. What another command at the same scheduler is doing is waited for, and then looked at
    again: Luigi itself would end with "not run".
    """
    waiting = False
    while True:
        result = luigi.interface._schedule_and_run([task])
        failed = any(status == "FAILED" for _, status, _ in result.worker._add_task_history)
        if failed or _running.stop_requested or not _get_external_workers(result.worker):
            return result
        if not waiting:
            say(f"{task.task_family}: waiting for stages that another command is at")
            waiting = True
        time.sleep(_OTHERS_SECONDS)


def _check_scheduler() -> None:
    """Raise `ServiceError` where a luigid is asked for and nobody answers; Luigi itself would wait in silence."""
    core = luigi.interface.core()
    if core.local_scheduler:
        return
    address = urllib.parse.urlsplit(core.scheduler_url)
    place = (address.hostname or core.scheduler_host, address.port or core.scheduler_port)
    if address.scheme.startswith("http+unix"):
        return
    try:
        socket.create_connection(place, timeout=5).close()
    except OSError as error:
        raise _no_scheduler(f"{place[0]}:{place[1]}: {error}") from None


def _no_scheduler(reason: str) -> ServiceError:
    return ServiceError(
        "no-scheduler",
        "the Luigi scheduler does not answer",
        expected="luigid at the address that is configured",
        found=printable(reason, 200),
        kept="every finished stage",
        next="start luigid, or leave the scheduler's address out: then none is needed",
    )


def failure_text(error: BaseException) -> str:
    """What a failed task tells the scheduler: the fields of a `QuiverError`, or a traceback."""
    known = error if isinstance(error, QuiverError) else program.disk_fault(error)
    if known is not None:
        return known.as_json()
    return "".join(traceback.format_exception(error))


class _Running:
    """Whether SIGTERM or SIGHUP came."""

    stop_requested = False


_running = _Running()


def _stop(number: int, _: object) -> None:
    _running.stop_requested = True
    if callable(signal.getsignal(signal.SIGUSR1)):
        signal.raise_signal(signal.SIGUSR1)  # Luigi's worker takes no more work; without one it would end us
    raise SystemExit(Stopped.code)


def _stopped() -> Stopped:
    return Stopped(
        "stopped",
        "stopped on request",
        kept="every finished stage, and what paid stages had answered",
        next=shlex.join(invocation.again()),
    )


def _task(parser: CmdlineParser) -> luigi.Task:
    try:
        return parser.get_task_obj()
    except QuiverError:
        raise
    except (ParameterException, ValueError) as fault:
        kind: Any = parser._get_task_cls()
        parameters.refuse_missing(kind, vars(parser.known_args))
        raise ConfigError(
            "bad-parameter",
            parameters.unreadable(kind, vars(parser.known_args)) or printable(fault, 300),
            kept="nothing was started",
            next=parameters.readable(kind, vars(parser.known_args)),
        ) from None


def _log_to_file() -> Path:
    """Luigi's own lines, of this run alone; the file is new every time and the ten newest are kept."""
    folder = logs_folder()
    own_folder(folder)
    for old in sorted(folder.glob("luigi-*.log"))[:-9]:
        with suppress(OSError):
            old.unlink(missing_ok=True)
    path = folder / f"luigi-{datetime.now():%Y%m%dT%H%M%S.%f}-{os.getpid()}.log"
    handler = LogFile(path, mode="x", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    return path


def logs_folder() -> Path:
    """Where log files go: below the root of data, or in the current folder when that is remote."""
    root = settings.quiver_config().root
    return Path("quiver-logs") if "://" in root else Path(root) / "logs"


def _raise_failures(root: luigi.Task, result: LuigiRunResult, log: Path) -> None:
    if _running.stop_requested:
        raise _stopped()
    worker = result.worker
    failed = {task.task_id: task for task, status, _ in worker._add_task_history if status == "FAILED"}
    errors = [_error_of(task, worker._scheduler.fetch_error(task_id)["error"]) for task_id, task in failed.items()]
    for error in errors[1:]:
        say_error(error)
    if errors:
        raise errors[0]
    if not worker.add_succeeded:
        raise QuiverError("scheduling", "the graph could not be scheduled", where=str(log))
    if not root.complete():
        raise QuiverError("scheduling", f"{root.task_family} ended before everything of it was made", where=str(log))


def _error_of(task: luigi.Task, failure: str) -> QuiverError:
    """The error behind a failed task, from what it reported to the scheduler (JSON twice over)."""
    text = _unquoted(failure)
    try:
        fields = json.loads(text)
        kind = {kind.code: kind for kind in _kinds(QuiverError)}[fields.pop("code")]
        return kind(fields.pop("slug"), fields.pop("what"), **fields)
    except (ValueError, AttributeError, KeyError, TypeError):
        pass
    if "died unexpectedly" in text:
        code = text.rsplit(" ", 1)[-1]
        return WorkerError(
            "worker-died",
            f"the process of {printable(task)} ended without a word",
            found=f"exit code {code}",
            kept="every finished stage",
            next=shlex.join(invocation.again()),
        )
    return _bug(text)


def _unquoted(failure: str) -> str:
    try:
        text = json.loads(failure)
    except ValueError:
        return failure
    return text if isinstance(text, str) else failure


def _kinds(kind: type[QuiverError]) -> Iterator[type[QuiverError]]:
    yield kind
    for sub in kind.__subclasses__():
        yield from _kinds(sub)


def _bug(text: str) -> QuiverError:
    """A bug of ours: the traceback goes to a file, one line to the screen."""
    try:
        folder = logs_folder()
        own_folder(folder)
        path = folder / f"bug-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.txt"
        replace_file(path, text)
    except QuiverError:
        return program.bug(text)
    last = text.strip().splitlines()[-1] if text.strip() else "unknown"
    return QuiverError("bug", f"{printable(last, 200)} (traceback in {path})")


def _own_bug(text: str) -> int:
    error = _bug(text)
    say_error(error)
    return error.code
