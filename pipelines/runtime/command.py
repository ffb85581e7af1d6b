"""What happens around `luigi --module pipelines ...`: checks before, quiet during, errors and the report after.

Luigi's command line calls `luigi.interface._run`; `install` puts `run` in its place. The rest stays Luigi's:
parameters, scheduler, workers. Errors of ours end the process with their own exit code and their five lines; a bug of
ours ends it with 1, one line and a file that holds the traceback.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import socket
import sys
import threading
import time
import traceback
import urllib.parse
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
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

from datakit.formats.reader import FormatReader
from pipelines.cli import flags_file, invocation, near_flags, refusals
from pipelines.cli.console import say, say_error
from pipelines.cli.file_flags import of_file
from pipelines.cli.known_commands import UnknownModule, UnknownTask
from pipelines.runtime import settings
from pipelines.runtime.executors import cluster_for
from pipelines.runtime.failures import bug, distinct, error_of
from pipelines.runtime.logfile import log_to_file
from pipelines.runtime.processes import start_whole
from pipelines.runtime.views import refresh_views
from schemas.errors import ConfigError, ConflictError, QuiverError, ServiceError, Stopped, printable
from schemas.process import program
from schemas.store.in_use import in_use
from trainers import doors

_LOG = logging.getLogger("luigi-interface")
_OTHERS_SECONDS = 2.0
_RUNS = threading.Lock()
"""Luigi's parser, and the command that was given, are there once in a process."""

T = TypeVar("T")

As = Callable[[luigi.Task], AbstractContextManager[luigi.Task]]
_RUN_AS: list[As] = [nullcontext]
"""What is run of a task that is asked for, while that lasts; the last of these says."""


def runs_as(how: As) -> As:
    """From now on `how` says what is run of a task: a decorator."""
    _RUN_AS.append(how)
    return how


def install() -> None:
    """Make `run` what Luigi's command line calls, and let it find out about unknown tasks in our words."""
    luigi.interface._run = door if doors.is_command() else run  # type: ignore[assignment]
    find = Register.get_task_cls

    def get_task_cls(name: str) -> type[luigi.Task]:
        try:
            return find(name)
        except TaskClassNotFoundException:
            raise UnknownTask(name) from None

    Register.get_task_cls = staticmethod(get_task_cls)  # type: ignore[method-assign,assignment]
    load = CmdlineParser._attempt_load_module

    def attempt_load_module(known_args: Any) -> None:
        try:
            load(known_args)
        except (ImportError, ValueError) as fault:
            raise UnknownModule(known_args.core_module, fault) from None

    CmdlineParser._attempt_load_module = staticmethod(attempt_load_module)  # type: ignore[method-assign,assignment]
    start_whole()
    refusals.install()
    hide_logs()


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


def run(
    cmdline_args: Sequence[str] | None = None, *_: object, how: Callable[[list[str]], T] | None = None, **__: object
) -> LuigiRunResult | T:
    """Parse, check, run, report, or do `how` with the words. Raises `SystemExit` with the exit code unless everything
    asked for exists.
    """
    handlers = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        words = list(sys.argv[1:] if cmdline_args is None else cmdline_args)
        return execute(words, _report) if how is None else how(words)
    except QuiverError as error:
        for one in (*error.beside, error):
            one.next = next_command(one)
            say_error(one)
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


def next_command(error: QuiverError) -> str:
    """What to do: what the error says; for a setting with a near name the command with that name; where a command line
    is wrong in another way, the page about it.
    """
    if error.slug == "input-replaced" and error.next.startswith("rm "):
        return f"{error.next} && {shlex.join(invocation.again())}"
    if error.matches:
        several = invocation.task() in ("Import", "Blend")
        places = ",".join(error.matches) if several else error.matches[-1]
        return invocation.with_value(error.wrong[0], places) or error.next
    if error.nearest and error.slug in ("no-such-file", "not-found", "no-function"):
        if not invocation.names(error.nearest):
            (wrong,) = error.wrong
            return invocation.with_value(wrong, os.path.join(os.path.dirname(wrong), error.nearest)) or error.next
        error.nearest = ""
    if error.nearest and error.slug == "unknown-op":
        return _with_op(error.wrong[0], error.nearest) or error.next
    if error.nearest and error.slug in ("unknown-column", "unknown-algorithm", "unknown-template", "query"):
        corrected = invocation.with_value(error.wrong[0], error.nearest)
        return corrected or invocation.renamed_within(error.wrong[0], error.nearest) or error.next
    if not isinstance(error, ConfigError) or not invocation.task() or "--" in error.next:
        return error.next
    corrected = ""
    if error.nearest and error.slug == "unknown-key":
        corrected = near_flags.assigned(invocation.task(), error.wrong[0], error.nearest)
        corrected = corrected or invocation.corrected(error.wrong[0], error.nearest)
    elif error.nearest and error.wrong:
        corrected = invocation.with_value(error.wrong[0], error.nearest)
    return corrected or error.next or invocation.typed(f"{invocation.task()} --help")


def _with_op(wrong: str, right: str) -> str:
    """The command that was given with the operation `right`, with or without its family as `wrong` has it; empty where
    that is of another family, and so of another command.
    """
    (family, _, given), (own, _, meant) = wrong.partition("."), right.partition(".")
    named = family == own and (invocation.with_value(wrong, right) or invocation.with_value(given, meant))
    return named or ""


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


def planned(
    arguments: Sequence[str], then: Callable[[luigi.Task], T], without: Callable[[list[str]], list[str]] = list
) -> T:
    """What `then` says of the task that `arguments` ask for, while settings of the command line hold; nothing runs.
    `without` takes words out of the command that are not to be looked at.
    """
    invocation.given(arguments)
    Register.clear_instance_cache()
    with CmdlineParser.global_instance(without(flags_file.with_file(arguments))) as parser:
        settings.check()
        return then(_task(parser))


def _executed(arguments: Sequence[str], then: Callable[[luigi.Task, LuigiRunResult], T]) -> T:
    main = threading.current_thread() is threading.main_thread()
    _running.stays = ""
    invocation.given(arguments)
    Register.clear_instance_cache()
    luigi.configuration.get_config().set("worker", "no_install_shutdown_handler", "false" if main else "true")
    handler, log_handlers = signal.getsignal(signal.SIGUSR1), list(_LOG.handlers)
    try:
        with CmdlineParser.global_instance(flags_file.with_file(arguments)) as parser:
            settings.check()
            _check_scheduler()
            task = _task(parser)
            command: Any = task
            if getattr(task, "dry_run", False):
                command.list_stages()
                raise SystemExit(0)
            with _RUN_AS[-1](task) as asked:
                return _done(asked, then)
    except RPCError as error:
        raise _no_scheduler(str(error.sub_exception or error)) from None
    finally:
        if main:
            signal.signal(signal.SIGUSR1, handler)
        for one in set(_LOG.handlers) - set(log_handlers):
            _LOG.removeHandler(one)
            one.close()


def _done(task: luigi.Task, then: Callable[[luigi.Task, LuigiRunResult], T]) -> T:
    """Check and run `task`; what `then` says of it."""
    before = getattr(task, "before", None)
    if before is not None:
        before()
    _running.stays = getattr(task, "stays", "")
    log = log_to_file(_LOG)
    with in_use(settings.quiver_config().root), cluster_for(task):
        result = _scheduled(task)
    _raise_failures(task, result, log)
    refresh_views(settings.quiver_config().root)
    return then(task, result)


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


class _Running:
    """Whether SIGTERM or SIGHUP came, and what stays of the run where it is stopped."""

    stop_requested = False
    stays = ""


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
        kept=_running.stays or "every finished stage",
        next=shlex.join(invocation.again()),
    )


def _task(parser: CmdlineParser) -> luigi.Task:
    try:
        return parser.get_task_obj()
    except QuiverError:
        raise
    except (ParameterException, ValueError) as fault:
        kind: Any = parser._get_task_cls()
        refusals.refuse_missing(kind, vars(parser.known_args))
        where = refusals.stated(kind, vars(parser.known_args))
        error = ConfigError(
            "bad-parameter",
            refusals.unreadable(kind, vars(parser.known_args)) or printable(fault, 300),
            where=where,
            kept="nothing was started",
            next="correct that line" if where else refusals.readable(kind, vars(parser.known_args)),
        )
        error.flags = refusals.wrong_flags(kind, vars(parser.known_args))
        raise error from None


def _raise_failures(root: luigi.Task, result: LuigiRunResult, log: Path) -> None:
    if _running.stop_requested:
        raise _stopped()
    worker = result.worker
    failed = {task.task_id: task for task, status, _ in worker._add_task_history if status == "FAILED"}
    errors = [error_of(task, worker._scheduler.fetch_error(task_id)["error"]) for task_id, task in failed.items()]
    for error, task in zip(errors, failed.values(), strict=True):
        read = getattr(getattr(task, "node", None), "op", None)
        if isinstance(read, FormatReader):
            error.next = of_file(root, read, error.next)
    errors = distinct(errors)
    for error in errors[1:]:
        say_error(error)
    if errors:
        raise errors[0]
    if not worker.add_succeeded:
        raise QuiverError("scheduling", "the graph could not be scheduled", where=str(log))
    if not root.complete():
        raise QuiverError("scheduling", f"{root.task_family} ended before everything of it was made", where=str(log))


def _own_bug(text: str) -> int:
    error = bug(text)
    say_error(error)
    return error.code
