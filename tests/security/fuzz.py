"""Fuzzers of every parser of outside input: `make fuzz SECONDS=600 SEED=1 DATA=folder`.

Valid seeds are made here (and taken from DATA), mutated, and parsed in forked children under limits of memory and time,
so that a crash, a hang or a bomb is counted and the run goes on. An input must be accepted or refused with a
`QuiverError`; the exit code is 1 for anything else, and what did it lies in build/fuzz. Equal SEED, equal inputs.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from schemas.errors import QuiverError
from tests.security.fuzz_targets import Parse, Target, targets

OUTCOMES = ("accepted", "refused", "traceback", "signal", "hang", "over memory")
ALARM_SECONDS = 20
"""Of processor time for one input."""
_HANGS = (signal.SIGALRM, signal.SIGPROF)
WALL_SECONDS = 200
"""By the clock, for an input that waits; generous, since other work may share the machine."""
MEMORY = 4 << 30
"""Address space beyond what the parent has."""

_SHARE = 200
"""Of so many inputs one is done by a process of its own."""

_TOKENS = (
    b"1e999",
    b"NaN",
    b"-1",
    b"\x00",
    b"\xff\xfe",
    b"\\ud800",
    b"null",
    b"[" * 2000,
    b'{"a":' * 2000,
    b"9" * 5000,
    b'""',
    b"..",
    b"/",
    b"\x1b[2J",
    b"\xe2\x80\xae",
    b"\r\n",
    b"{{",
    b"%}",
    b"random()",
    b"2147483648",
    b"true",
    b"\n",
)


@dataclass
class Counts:
    """How the inputs of one parser ended, and the distinct last lines of what should not have happened."""

    outcomes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)


def mutated(rng: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One seed with one to four changes: bits, bytes, pieces gone, doubled, swapped in, or hostile words."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, 4)):
        at, size = rng.randrange(len(data) + 1), rng.randint(1, 16)
        kind = rng.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del data[at : at + size * rng.choice((1, 64))]
        elif kind == 2:
            data[at:at] = data[at : at + size] * rng.choice((1, 2, 500))
        elif kind == 3:
            data[at : at + size] = rng.randbytes(size)
        elif kind == 4:
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            data[at:at] = other[start : start + 64]
        elif kind == 5:
            del data[at:]
        else:
            data[at : at + rng.choice((0, size))] = rng.choice(_TOKENS)
    return bytes(data)


def outcome(parse: Parse, data: bytes, folder: str) -> tuple[str, str]:
    """How one input ends, and the last line of a traceback."""
    try:
        parse(data, folder)
    except QuiverError as error:
        lines = error.render().splitlines()
        return ("refused", "") if len(lines) <= 5 else ("traceback", f"an error of {len(lines)} lines: {lines[0]}")
    except MemoryError:
        return "over memory", "MemoryError"
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return "traceback", f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}: {str(error)[:80]}"
    return "accepted", ""


def batch(parse: Parse, inputs: Sequence[bytes], folder: str) -> Iterator[tuple[bytes, str, str]]:
    """The outcome of each input; a child does as many as it survives, the next goes on behind the one that ended it."""
    done = 0
    while done < len(inputs):
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            _serve(parse, inputs[done:], folder, writer)
        os.close(writer)
        with os.fdopen(reader, "r", encoding="utf-8", errors="replace") as lines:
            for line in lines:
                kind, _, fault = line.rstrip("\n").partition("\t")
                yield inputs[done], kind, fault
                done += 1
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and done < len(inputs):
            number = os.WTERMSIG(status)
            yield (
                inputs[done],
                "hang" if number in _HANGS else "signal",
                signal.Signals(number).name,
            )
            done += 1
        elif done < len(inputs):
            yield inputs[done], "signal", f"left with {os.waitstatus_to_exitcode(status)}"
            done += 1


def tried(target: Target, inputs: Sequence[bytes], folder: str) -> Iterator[tuple[bytes, str, str]]:
    """The outcome of each input. Of a parser with a process of its own most are done without it; one in `_SHARE`, and
    one that a limit would have stopped there, is done with it, and that counts.
    """
    if target.here is None:
        yield from batch(target.parse, inputs, folder)
        return
    again = list(inputs[::_SHARE])
    for data, kind, fault in batch(target.here, inputs, folder):
        if kind in ("accepted", "refused", "traceback"):
            yield data, kind, fault
        else:
            again.append(data)
    yield from batch(target.parse, again, folder)


def _serve(parse: Parse, inputs: Sequence[bytes], folder: str, writer: int) -> None:
    """The child's life: one line an input."""
    faulthandler.disable()
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for data in inputs:
        signal.alarm(WALL_SECONDS)
        signal.setitimer(signal.ITIMER_PROF, ALARM_SECONDS)
        kind, fault = outcome(parse, data, folder)
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        os.write(writer, f"{kind}\t{ascii(fault)[1:-1]}\n".encode())
    os._exit(0)


def fuzz(wanted: Mapping[str, Target], seconds: float, seed: int, keep: Path) -> dict[str, Counts]:
    """Counts by parser after `seconds`; every parser gets one batch at least, and its turn in equal time."""
    rng = {name: random.Random(f"{seed} {name}") for name in wanted}
    counts = {name: Counts() for name in wanted}
    spent = dict.fromkeys(wanted, 0.0)
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="quiver-fuzz-") as folder:
        while time.monotonic() < end or not all(spent.values()):
            name = min(spent, key=lambda name: spent[name])
            started, target, tally = time.monotonic(), wanted[name], counts[name]
            inputs = [mutated(rng[name], target.seeds) for _ in range(target.batch)]
            for data, kind, fault in tried(target, inputs, folder):
                tally.outcomes[kind] += 1
                if kind not in ("accepted", "refused"):
                    tally.faults[f"{kind}: {fault}"] += 1
                    if tally.faults[f"{kind}: {fault}"] == 1:
                        keep.mkdir(parents=True, exist_ok=True)
                        (keep / f"{name}-{len(tally.faults)}.bin").write_bytes(data)
            spent[name] += time.monotonic() - started
    return counts


def report(counts: Mapping[str, Counts]) -> bool:
    """Print the counts; whether every input was accepted or refused with an error of ours."""
    print(f"{'parser':<22}{'tried':>9}" + "".join(f"{kind:>12}" for kind in OUTCOMES))
    for name, tally in counts.items():
        row = "".join(f"{tally.outcomes[kind]:>12,}" for kind in OUTCOMES)
        print(f"{name:<22}{sum(tally.outcomes.values()):>9,}{row}")
    for name, tally in counts.items():
        for fault, number in tally.faults.most_common():
            print(f"{name}: {number} x {fault}")
    return not any(tally.faults for tally in counts.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--data", default="", help="a folder with more seeds")
    parser.add_argument("--only", default="", help="parsers, with commas between")
    given = parser.parse_args(arguments)
    known = targets(given.data)
    wanted = {name: known[name] for name in given.only.split(",")} if given.only else known
    return 0 if report(fuzz(wanted, given.seconds, given.seed, Path("build/fuzz"))) else 1


if __name__ == "__main__":
    sys.exit(main())
