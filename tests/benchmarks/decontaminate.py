"""Evaluation rows planted in 200,000 made texts: how many of them `filter.decontaminate` finds, in which time and
memory, and a loop over Python's sets of 13-grams over the same rows.

The evaluation set has 8,000 made questions of 15 to 60 words; one row of a hundred has one of them somewhere inside, in
capitals and with other punctuation.

    python -m tests.benchmarks.decontaminate [--rows 200000]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.benchmarks.near_dedup import texts, write

QUESTIONS = 8_000


def planted(rows: int) -> tuple[list[str], list[str], dict[int, int]]:
    """The rows, the questions, and which question each row holds that has one."""
    rng = np.random.default_rng(11)
    made = texts(rows + QUESTIONS)[0]
    questions = [" ".join(rng.permutation(text.split())[: int(rng.integers(15, 60))]) for text in made[rows:]]
    asks = {int(row): int(rng.integers(QUESTIONS)) for row in rng.choice(rows, rows // 100, replace=False)}
    for row, question in asks.items():
        words = made[row].split()
        at = int(rng.integers(len(words)))
        made[row] = " ".join([*words[:at], questions[question].upper().replace(" ", ", ", 3), *words[at:]])
    return made[:rows], questions, asks


def quiver(folder: str) -> dict[int, int]:
    """The rows that go, and the questions that they name."""
    from datakit.apply import apply
    from datakit.filter import Decontaminate
    from schemas.dataset import Dataset

    op = Decontaminate(sets=("made",), columns=("response",), sought=("response",))
    inputs = [Dataset.open(f"{folder}/{name}") for name in ("rows", "questions")]
    gone = apply(op, inputs, f"{folder}/kept").read_rejected().select(["n", "evaluation_row"]).to_pylist()
    return {int(row["n"]): int(row["evaluation_row"]) for row in gone}


def loop(folder: str) -> dict[int, int]:
    """The same by a loop over rows with a dictionary of n-grams; it names the first question, and writes nothing."""
    from schemas.dataset import Dataset

    def grams(text: str) -> list[str]:
        words = re.findall(r"\w+", text.lower())
        return [" ".join(words[i : i + 13]) for i in range(len(words) - 12)]

    rows, questions = (Dataset.open(f"{folder}/{name}") for name in ("rows", "questions"))
    sought: dict[str, int] = {}
    for number, text in enumerate(questions.read()["response"].to_pylist()):
        for gram in grams(text):
            sought.setdefault(gram, number)
    gone, start = {}, 0
    for shard in range(len(rows.shards)):
        column = rows.read_shard(shard)["response"].to_pylist()
        for number, text in enumerate(column, start):
            hit = next((sought[gram] for gram in grams(text) if gram in sought), None)
            if hit is not None:
                gone[number] = hit
        start += len(column)
    return gone


SIDES = {"quiver": quiver, "loop": loop}


def side(name: str, folder: str) -> None:
    """Run one side and print its figures."""
    start = time.perf_counter()
    gone = SIDES[name](folder)
    seconds = time.perf_counter() - start
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    print(json.dumps({"seconds": seconds, "peak_mb": int(peak.group(1)) / 1024, "gone": sorted(gone.items())}))


def main() -> None:
    """Make the rows, run each side in a process of its own, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--side", default="")
    parser.add_argument("--folder", default="")
    asked = parser.parse_args()
    if asked.side:
        side(asked.side, asked.folder)
        return
    rows, questions, asks = planted(asked.rows)
    print(f"{len(rows):,} rows, {sum(map(len, rows)) / 1e6:.0f} MB of text; {len(questions):,} questions")
    with tempfile.TemporaryDirectory(prefix="quiver-bench-") as folder:
        write(f"{folder}/rows", rows)
        write(f"{folder}/questions", questions)
        for name in SIDES:
            command = [sys.executable, "-m", "tests.benchmarks.decontaminate", "--side", name, "--folder", folder]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
            result = json.loads(done.stdout.splitlines()[-1])
            gone = dict(result["gone"])
            named = sum(gone.get(row) == question for row, question in asks.items())
            print(
                f"{name}: {result['seconds']:.1f} s, {len(rows) / result['seconds']:,.0f} rows/s, peak "
                f"{result['peak_mb']:.0f} MB; {len(gone.keys() & asks.keys()):,} of {len(asks):,} planted rows go, "
                f"{named:,} name the question; {len(gone.keys() - asks.keys())} others go"
            )


if __name__ == "__main__":
    main()
