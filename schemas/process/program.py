"""How a command of ours ends: one way out, whatever happened, with the right exit code.

Python takes itself down while threads of libraries (of Arrow, torch, an object store) may still be at work; one that
then asks for the interpreter is unwound through C++ frames that do not allow it, and the process aborts (SIGABRT,
"terminate called without an active exception") after its last word. So a command joins its own threads, runs its exit
handlers, flushes, and leaves without taking the interpreter down.
"""

from __future__ import annotations

import atexit
import errno
import os
import select
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from schemas.errors import QuiverError, Stopped, StorageError, printable
from schemas.installed import as_run
from schemas.process.interpreter import STOPS, end_fork_server
from schemas.process.terminal import error_text
from schemas.store.storage import storage_error

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG)


def run(main: Callable[[], int]) -> NoReturn:
    """Run the `main` of a command and leave with its exit code, or with that of what it raised.

    SIGINT, SIGTERM and SIGHUP become a `KeyboardInterrupt`, so that `main` removes what is half done; exit code 75.
    """
    os.environ["PYTHONSAFEPATH"] = "1"
    interrupt_on_signals()
    try:
        code = main()
    except SystemExit as exit_:
        code = _code(exit_)
    except KeyboardInterrupt:
        code = _print(stopped())
    except QuiverError as error:
        code = _print(error)
    except OSError as error:
        gone = reader_is_gone(error)
        code = 0 if gone else _print(disk_fault(error) or bug("".join(traceback.format_exception(error))))
    except Exception as error:
        code = _print(bug("".join(traceback.format_exception(error))))
    leave(code)


def disk_fault(error: BaseException) -> StorageError | None:
    """What is said of a disk that is full, over its quota, read-only or broken; None for every other fault."""
    if not isinstance(error, OSError) or isinstance(error, StorageError) or error.errno not in _DISK:
        return None
    return storage_error(error, "write", error.filename or "standard output")


def reader_is_gone(error: BaseException) -> bool:
    """Whether `error` says that nobody reads standard output any more (`... | head -1`), which is no fault."""
    if not isinstance(error, BrokenPipeError):
        return False
    look = select.poll()
    look.register(1, 0)
    return any(events & select.POLLERR for _, events in look.poll(0))


def leave(code: int) -> NoReturn:
    """End this process: threads of ours are joined, exit handlers run, output is flushed. A signal cuts that short."""
    if threading.current_thread() is threading.main_thread():
        for number in STOPS:
            signal.signal(number, lambda *_: os._exit(code))
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    end_fork_server()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            pass
        except (OSError, ValueError, AttributeError):
            code = code or StorageError.code
    os._exit(code)


def interrupt_on_signals() -> None:
    """Have a signal that asks to stop raise `KeyboardInterrupt`; the second one ends the process at once."""

    def interrupt(number: int, _: object) -> None:
        for each in STOPS:
            signal.signal(each, lambda *_: os._exit(Stopped.code))
        raise KeyboardInterrupt(signal.Signals(number).name)

    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)
    sys.unraisablehook = _unraisable


def stopped(kept: str = "what was finished; nothing half-written is left") -> Stopped:
    """The error of a command that was asked to stop and had nothing to save."""
    return Stopped("stopped", "stopped on request", kept=kept, next="run the same command again")


def bug(text: str) -> QuiverError:
    """A bug of ours, whose traceback is `text`: it goes to a new file that only this user can read."""
    last = text.strip().splitlines()[-1] if text.strip() else "unknown"
    try:
        number, path = tempfile.mkstemp(prefix="quiver-bug-", suffix=".txt")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        print(text, file=sys.stderr)
        return QuiverError("bug", printable(last, 200))
    return QuiverError("bug", f"{printable(last, 200)} (traceback in {path})")


def _print(error: QuiverError) -> int:
    error.next = as_run(error.next)
    print(error_text(error), file=sys.stderr, flush=True)
    return error.code


def _code(exit_: SystemExit) -> int:
    if exit_.code is None or isinstance(exit_.code, int):
        return exit_.code or 0
    print(exit_.code, file=sys.stderr)
    return 1


def _unraisable(unraisable: Any) -> None:
    """An interrupt that came while an object was being removed is lost there: it is raised again a moment later."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        return
    sys.__unraisablehook__(unraisable)
