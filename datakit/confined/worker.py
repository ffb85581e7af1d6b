"""The child process that runs one program from outside where it reaches nothing: the namespaces of the Linux kernel.

    this process     namespaces of its own; a file system of Python's libraries (read-only) and an empty /tmp
      `- init        process 1 of its namespace: when it ends, the kernel ends all that the program started
           `- python the program: no capability, nothing to gain one by, an empty environment, limits on all it uses

One request as JSON on the input. The answer is what the program wrote to its pipe, bytes from outside: `passed <token>`
or `fault <text>` of `_RUN`, and `ended <status>` of the init. `no-sandbox <why>` comes of this process, and nothing has
run then. Runs by path, with the standard library alone.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NoReturn

_RUN = """
import json, os, sys
request = json.load(sys.stdin)
scope = {"__name__": "__main__"}
try:
    for part in request["parts"]:
        exec(compile(part, "program", "exec"), scope)
    word = "passed " + request["token"]
except BaseException as fault:
    word = "fault " + f"{type(fault).__name__}: {fault}"[:200]
os.write(3, word.encode("utf-8", "replace"))
os._exit(0)
"""
_MOUNTS, _USERS, _REST = 0x00020000, 0x10000000, 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
"""Kinds of namespaces (CLONE_NEW*); the rest: the machine's name, messages, processes, network."""
_NOBODY, _INSIDE = 65534, 1000
_ROOT = "/tmp"
_BIND, _REC, _PRIVATE, _NOSUID, _NODEV, _DETACH = 1 << 12, 1 << 14, 1 << 18, 2, 4, 2
_MOUNT_SETATTR, _READ_ONLY, _RECURSIVE = 442, 1 | 2, 0x8000
_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVS = 1, 4, 38
_SYSTEM = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64")
_FILES = ("/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom")
_libc = ctypes.CDLL(None, use_errno=True)


def main() -> int:
    """Go where nothing is, start the program there, and wait for its end."""
    request = json.load(sys.stdin)
    try:
        _close_in(request)
        init = os.fork()
    except (OSError, AttributeError) as fault:
        os.write(1, f"no-sandbox {fault}".encode())
        return 3
    if init == 0:
        _be_init(request)
    os.close(1)
    os.waitpid(init, 0)
    return 0


def _close_in(request: dict[str, Any]) -> None:
    """Namespaces of its own, and in them a file system without anything of anybody's; `OSError` where that is barred.

    What root may do without a namespace of users it does first, and is nobody before the program is there.
    """
    processes = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
    if os.geteuid() == 0:
        _call("unshare", _MOUNTS)
        _file_system(request, _NOBODY)
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
        _call("prctl", _DUMPABLE, 1, 0, 0, 0)
        _be_user(processes)
    else:
        _be_user(processes)
        _call("unshare", _MOUNTS)
        _file_system(request, _INSIDE)
    _call("unshare", _REST)
    socket.sethostname("nowhere")
    _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # last: a change of rights undoes it
    if os.getppid() != request["parent"]:
        raise OSError("its parent is gone")


def _be_user(processes: int) -> None:
    """The one user of a namespace of users, which can make no further ones."""
    user, group = os.geteuid(), os.getegid()
    _call("unshare", _USERS)
    _write("self/setgroups", "deny", processes)
    _write("self/uid_map", f"{_INSIDE} {user} 1", processes)
    _write("self/gid_map", f"{_INSIDE} {group} 1", processes)
    with suppress(OSError):
        _write("sys/user/max_user_namespaces", "0", processes)


def _shown(python: str, libraries: Iterable[str]) -> dict[str, bool]:
    """The paths that are seen inside, and whether each is a folder: the interpreter, the system's and its own
    libraries, and what else this process has mapped.
    """
    with open("/proc/self/maps") as maps:
        mapped = [line.split(maxsplit=5)[-1].strip() for line in maps if "/" in line]
    shown: dict[str, bool] = {}
    for path in sorted({*_SYSTEM, *libraries}, key=len):
        if os.path.isdir(path) and not os.path.islink(path) and not _within(path, shown):
            shown[path] = True
    for path in dict.fromkeys((python, *mapped, *_FILES)):
        if os.path.exists(path) and not _within(path, shown):
            shown[path] = False
    return shown


def _within(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _file_system(request: dict[str, Any], user: int) -> None:
    """Make what is shown, read-only, and a /tmp of the `user` all that there is."""
    links = {path: os.readlink(path) for path in _SYSTEM if os.path.islink(path)}
    _mount("none", "/", "", _REC | _PRIVATE)
    shown = {path: (folder, os.open(path, os.O_PATH)) for path, folder in _shown(**request["python"]).items()}
    _mount("none", _ROOT, "tmpfs", _NOSUID | _NODEV, "size=256k,mode=755")
    for path, (folder, number) in shown.items():
        target = _ROOT + path
        os.makedirs(target if folder else os.path.dirname(target), exist_ok=True)
        if not folder:
            os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
        _mount(f"/proc/self/fd/{number}", target, "", _BIND | _REC)
        os.close(number)
    for path, there in links.items():
        with suppress(FileExistsError):
            os.symlink(there, _ROOT + path)
    os.makedirs(f"{_ROOT}/tmp")
    os.chdir(_ROOT)
    attributes = (ctypes.c_uint64 * 4)(_READ_ONLY, 0, 0, 0)
    _checked("mount_setattr", _libc.syscall(_MOUNT_SETATTR, -100, b".", _RECURSIVE, ctypes.byref(attributes), 32))
    own = f"size={request['disk']},nr_inodes=1024,mode=700,uid={user},gid={user}"
    _mount("none", "tmp", "tmpfs", _NOSUID | _NODEV, own)
    _call("pivot_root", b".", b".")
    _call("umount2", b".", _DETACH)
    os.chdir("/tmp")


def _be_init(request: dict[str, Any]) -> NoReturn:
    """Process 1: start the program, bury what it leaves, and say how it ended. With this process all of it ends."""
    _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    program = os.fork()
    if program == 0:
        try:
            _become(request)
        finally:
            os._exit(127)
    signal.signal(signal.SIGALRM, _late)
    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    while True:
        ended, status = os.waitpid(-1, 0)
        if ended == program:
            os.write(1, f"\nended {os.waitstatus_to_exitcode(status)}".encode())
            os._exit(0)


def _late(*_: object) -> NoReturn:
    os.write(1, b"\nended late")
    os._exit(0)


def _become(request: dict[str, Any]) -> NoReturn:
    """Turn into Python with the program for its input, under its limits; capabilities end with the `execve`."""
    os.setsid()
    _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    text = os.memfd_create("program")
    os.write(text, json.dumps({"parts": request["parts"], "token": request["token"]}).encode())
    os.lseek(text, 0, os.SEEK_SET)
    os.dup2(1, 3)
    os.dup2(text, 0)
    nothing = os.open("/dev/null", os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    os.closerange(4, 1 << 16)
    for name, most in request["limits"].items():
        more = name == "RLIMIT_CPU"  # a signal that says what it is for, and a second later one that cannot be caught
        resource.setrlimit(getattr(resource, name), (most, most + more))
    command = [request["python"]["python"], "-s", "-S", "-B", "-X", "utf8", "-c", _RUN]
    os.execve(command[0], command, {"PYTHONHASHSEED": "0"})


def _mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    _call(
        "mount", source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), data.encode() or None
    )


def _call(name: str, *arguments: Any) -> None:
    _checked(name, getattr(_libc, name)(*arguments))


def _checked(name: str, result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _write(path: str, text: str, folder: int) -> None:
    number = os.open(path, os.O_WRONLY, dir_fd=folder)
    try:
        os.write(number, text.encode())
    finally:
        os.close(number)


if __name__ == "__main__":
    sys.exit(main())
