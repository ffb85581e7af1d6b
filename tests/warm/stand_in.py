"""`python -I -S stand_in.py ADDRESS MODULE WORDS`: what stands where a command starts `python -m MODULE WORDS`. The
server at ADDRESS forks that program with our streams, folder and environment; signals go on to it, and its end is ours.
"""

import json
import os
import signal
import socket
import sys
from types import FrameType

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2)
_WORD = 64


def main() -> int:
    """Have it run; its exit code."""
    address, module, *words = sys.argv[1:]
    if os.environ.get("OMP_NUM_THREADS", "1") != "1":  # heeded while torch is imported
        os.execv(sys.executable, [sys.executable, "-P", "-W", "ignore", "-m", module, *words])
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(address)
        umask = os.umask(0o077)
        os.umask(umask)
        place = {"folder": os.getcwd(), "environment": dict(os.environ), "umask": umask}
        job = {"module": module, "words": words, **place}
        socket.send_fds(server, [json.dumps({**job, "address": address}).encode()], [0, 1, 2])
        child = int(server.recv(_WORD))

        def pass_on(number: int, _: FrameType | None) -> None:
            os.kill(child, number)

        for number in PASSED_ON:
            signal.signal(number, pass_on)
        code = int(server.recv(_WORD))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main())
