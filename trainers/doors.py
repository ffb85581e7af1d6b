"""What comes before everything else where this process is one of our commands.

`python -m` puts the working folder before all that is installed: a file `torch.py` beside somebody's data would run.
It is taken out here, before the first import that it could answer; and a signal that asks the command to stop ends it
without a traceback while it still imports. Standard streams that are closed, or cannot be written, do not take its work
or its exit code along. Nothing but `sys` and `os`, which Python itself has loaded, may be imported
above: not even `__future__`.
"""

import os
import sys

_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SCRIPTS = ("luigi", "quiver")
_WORDS = b"error[75/stopped]: stopped on request\n  kept: nothing was started\n  next: run the same command again\n"


def is_command() -> bool:
    """Whether this process was started as `python -m` one of our modules, as Luigi's command line or as `quiver`; a
    worker of such a process, which has its arguments, was not.
    """
    workers = sys.modules.get("multiprocessing.process")
    if workers is not None:
        starting = getattr(workers.current_process(), "_inheriting", False)
        if starting or workers.parent_process() is not None:
            return False
    name = sys.argv[0] if sys.argv else ""
    return name == "-m" or os.path.basename(name) in _SCRIPTS or name.endswith(os.path.join("luigi", "__main__.py"))


def close() -> None:
    """Take the working folder out of `sys.path`; where our own packages lie there, it comes last."""
    if getattr(sys.flags, "safe_path", False) or os.path.basename(sys.argv[0]) in _SCRIPTS:
        return
    first = sys.path[0] if sys.path else None
    here: str | None
    try:
        here = os.getcwd()
    except FileNotFoundError:
        here = first
    if first is not None and here == (os.path.abspath(first) if first else here):
        del sys.path[0]
        if os.path.realpath(first) == os.path.realpath(_OURS):
            sys.path.append(_OURS)


def stop_quietly() -> None:
    """Until the command itself listens: SIGINT and SIGTERM end it with 75 and three lines."""
    import signal

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(*_):  # type: ignore[no-untyped-def]
    os.write(2, _WORDS)
    os._exit(75)


class Notes:
    """Standard error of a command. What cannot be written there (the disk behind it is full, its reader is gone) is
    lost; the work goes on, and the exit code tells of it.
    """

    def __init__(self, stream):  # type: ignore[no-untyped-def]
        self._stream = stream

    def write(self, text):  # type: ignore[no-untyped-def]
        """As much of `text` as can be written."""
        try:
            return self._stream.write(text)
        except OSError:
            return len(text)

    def flush(self):  # type: ignore[no-untyped-def]
        """What waits goes out, if it can."""
        try:
            self._stream.flush()
        except OSError:
            pass

    def __getattr__(self, name):  # type: ignore[no-untyped-def]
        return getattr(self._stream, name)


def fill_streams():  # type: ignore[no-untyped-def]
    """Put the null device behind standard streams that are closed: the next file that is opened would take their
    number, and what libraries print would be written into it.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            taken = os.open(os.devnull, os.O_RDWR)
            os.dup2(taken, number, inheritable=True)
            if taken != number:
                os.close(taken)
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115 - for good
    sys.stderr = Notes(sys.stderr)


if is_command():
    close()
    fill_streams()
    stop_quietly()
