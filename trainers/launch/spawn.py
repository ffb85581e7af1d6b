"""`python -m trainers.launch.spawn RANKS PROGRAM CONFIG`: the ranks of a run on this machine, without torch.

It starts RANKS processes of the module PROGRAM on CONFIG and tells each its place by torchrun's variables. They meet
through a file (QUIVER_MEETING names its folder), not through a port as under torchrun, whose agents open a store to
the whole network. When one fails, the others get SIGTERM, and SIGKILL after `--save-seconds`. How each ended stands on
standard output, which is the launcher's log; the exit code is 0 or 1.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import time
from types import FrameType

from schemas.process import interpreter, program

_POLL_SECONDS = 0.05


class _Ranks:
    """The processes of one start."""

    def __init__(self, ranks: int, module: str, config: str, save_seconds: float) -> None:
        self.save_seconds, self.asked = save_seconds, False
        for number in interpreter.STOPS:
            signal.signal(number, self._ask)
        command = interpreter.module(module, config)
        self._running = {
            rank: subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**os.environ, **place(rank, ranks)})
            for rank in range(ranks)
        }

    def wait(self) -> int:
        """0 when every rank ended well, or 1."""
        code, ending = 0, 0.0
        while self._running:
            for rank, child in list(self._running.items()):
                if child.poll() is not None:
                    del self._running[rank]
                    print(f"rank {rank} (pid {child.pid}) ended with {child.returncode}", flush=True)
                    code = code or int(child.returncode != 0)
            if (code or self.asked) and not ending:
                ending = time.monotonic() + self.save_seconds
                self._signal(signal.SIGTERM)
            if ending and time.monotonic() > ending:
                self._signal(signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        return code

    def _ask(self, _: int, __: FrameType | None) -> None:
        self.asked = True

    def _signal(self, number: int) -> None:
        for child in self._running.values():
            child.send_signal(number)


def place(rank: int, ranks: int) -> dict[str, str]:
    """What `rank` of `ranks` processes on one machine gets of its place, in torchrun's variables."""
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}


def main(arguments: list[str] | None = None) -> int:
    """Start the ranks that the command line asks for and wait for them."""
    reader = argparse.ArgumentParser(prog="python -m trainers.launch.spawn", description="Ranks on this machine.")
    reader.add_argument("ranks", type=int)
    reader.add_argument("program", help="module that every rank runs")
    reader.add_argument("config", help="its argument")
    reader.add_argument("--save-seconds", type=float, default=120.0)
    given = reader.parse_args(arguments)
    return _Ranks(given.ranks, given.program, given.config, given.save_seconds).wait()


if __name__ == "__main__":
    program.run(main)
