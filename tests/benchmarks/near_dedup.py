"""Near-duplicates among 200,000 made texts: how many of the planted copies `filter.dedup_near` finds, what else goes,
in which time and memory; and MinHash of other libraries over the same texts.

Texts are 30 to 200 words, drawn by Zipf's law from 30,000 made words; a third of them fill one of 50 templates of 20
words (what many answers have in common, and no near-duplicates). One row of five is the copy of an earlier one, of
whose words 0, 1, 2, 3 or 5 % are replaced, inserted or deleted. Rows are in random order. Printed are the share of
copies that go for each edit rate, that among pairs which are as alike as asked by a count over sets of strings, the
share of rows that go and are no copy, seconds, and peak memory. Another library has the same n-grams, as strings, and
the same bands (`datasketch`: 128 permutations and its `MinHashLSH`; `rensa`: `RMinHash` and `RMinHashLSH`); it verifies
nothing, and sets nothing aside.

    python -m tests.benchmarks.near_dedup [--rows 200000] [--similarity 0.7] [--others datasketch,rensa]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa

RATES = (0.0, 0.01, 0.02, 0.03, 0.05)
ROWS_PER_SHARD = 32_768


def texts(rows: int) -> tuple[list[str], list[int], list[float]]:
    """The texts, for each the row that it is a copy of (-1: of none), and the rate at which it was edited."""
    rng = np.random.default_rng(7)
    vocabulary = np.array([f"{word:x}" for word in rng.choice(1 << 24, 30_000, replace=False)])
    weights = 1 / (np.arange(30_000) + 10)
    weights /= weights.sum()
    drawn = (rng.choice(vocabulary, 1 << 20, p=weights).tolist() for _ in itertools.count())
    stream = itertools.chain.from_iterable(drawn)
    templates = [list(itertools.islice(stream, 20)) for _ in range(50)]
    originals = rows - rows // 5
    made = []
    for _ in range(originals):
        words = list(itertools.islice(stream, int(rng.integers(30, 200))))
        made.append(templates[rng.integers(50)] + words if rng.random() < 1 / 3 else words)
    of = [-1] * originals
    rate = [0.0] * originals
    for source in rng.choice(originals, rows - originals, replace=False).tolist():
        rate.append(RATES[len(made) % len(RATES)])
        of.append(source)
        made.append(edited(made[source], rate[-1], rng, stream))
    order = rng.permutation(rows)
    place = np.empty(rows, int)
    place[order] = np.arange(rows)
    return (
        [" ".join(made[i]) for i in order.tolist()],
        [int(place[of[i]]) if of[i] >= 0 else -1 for i in order.tolist()],
        [rate[i] for i in order.tolist()],
    )


def edited(words, rate, rng, stream):
    """`words`, of which each is replaced, deleted or has another before it, at that rate altogether."""
    kinds = rng.random(len(words))
    out = []
    for word, kind in zip(words, kinds.tolist(), strict=True):
        if kind < rate / 3:
            continue
        if kind < 2 * rate / 3:
            out.append(next(stream))
        elif kind < rate:
            out += [next(stream), word]
        else:
            out.append(word)
    return out


def shingles(text: str, n: int = 3) -> set[str]:
    """Runs of words as strings."""
    words = text.split()
    return {" ".join(words[i : i + n]) for i in range(max(len(words) - n + 1, 1))}


def write(url: str, rows: list[str]):
    """The rows as a dataset of several shards."""
    from schemas import Column, Schema
    from schemas.dataset import Attempt

    schema = Schema("texts", 1, (Column("n", pa.string(), "row"), Column("response", pa.string(), "text")), key=("n",))
    attempt = Attempt.begin(url, schema)
    files = []
    for index, start in enumerate(range(0, len(rows), ROWS_PER_SHARD)):
        with attempt.shard(index) as writer:
            part = rows[start : start + ROWS_PER_SHARD]
            writer.write(
                pa.table({"n": [str(start + i) for i in range(len(part))], "response": part}, schema=schema.arrow)
            )
            files.append(writer.finish())
    return attempt.commit(files)


def quiver(url: str, similarity: float) -> list[tuple[int, int]]:
    """The rows that go and the rows that they repeat."""
    from datakit.apply import apply
    from datakit.filter import DedupNear
    from schemas.dataset import Dataset

    out = apply(DedupNear(similarity=similarity), Dataset.open(url), f"{url}-kept")
    rejected = out.read_rejected().select(["n", "threshold"])
    return [(int(row["n"]), int(row["threshold"])) for row in rejected.to_pylist()]


def datasketch(url: str, similarity: float) -> list[tuple[int, int]]:
    """The same by datasketch: the first of each set of rows that share a band stays."""
    from datasketch import MinHash, MinHashLSH

    from datakit.columns.minhash import bands

    lsh = MinHashLSH(num_perm=128, params=bands(similarity))
    return _first_come(url, lsh, lambda words: MinHash.bulk([[word.encode() for word in words]], num_perm=128)[0])


def rensa(url: str, similarity: float) -> list[tuple[int, int]]:
    """The same by rensa."""
    from rensa import RMinHash, RMinHashLSH

    from datakit.columns.minhash import bands

    def hashed(words):
        made = RMinHash(num_perm=128, seed=1)
        made.update(list(words))
        return made

    count, _ = bands(similarity)
    while 128 % count:
        count += 1
    return _first_come(url, RMinHashLSH(threshold=similarity, num_perm=128, num_bands=count), hashed)


def _first_come(url, lsh, hashed):
    from schemas.dataset import Dataset

    gone, dataset, row = [], Dataset.open(url), 0
    for shard in range(len(dataset.shards)):
        for text in dataset.read_shard(shard)["response"].to_pylist():
            made = hashed(shingles(text))
            met = lsh.query(made)
            if met:
                gone.append((row, min(int(one) for one in met)))
            else:
                lsh.insert(row, made)
            row += 1
    return gone


SIDES = {"quiver": quiver, "datasketch": datasketch, "rensa": rensa}


def side(name: str, url: str, similarity: float) -> None:
    """Run one side and print its figures."""
    start = time.perf_counter()
    gone = SIDES[name](url, similarity)
    seconds = time.perf_counter() - start
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    print(json.dumps({"seconds": seconds, "peak_mb": int(peak.group(1)) / 1024, "gone": gone}))


def report(name: str, result: dict, made, similarity: float) -> None:
    """Figures of one side against what was planted."""
    rows, of, rate = made
    goes = dict(map(tuple, result["gone"]))
    planted = [row for row, source in enumerate(of) if source >= 0]
    went, every, alike, alike_gone = Counter(), Counter(), 0, 0
    for row in planted:
        later = max(row, of[row])
        every[rate[row]] += 1
        went[rate[row]] += later in goes
        a, b = shingles(rows[row]), shingles(rows[of[row]])
        if len(a & b) / len(a | b) >= similarity:
            alike += 1
            alike_gone += later in goes
    copies, others = sum(went.values()), len(goes) - sum(went.values())
    seconds, share = result["seconds"], others / (len(rows) - len(planted))
    print(f"{name}: {seconds:.1f} s, {len(rows) / seconds:,.0f} rows/s, peak {result['peak_mb']:.0f} MB")
    for edit in RATES:
        print(f"  edit rate {edit:4.0%}: {went[edit]:,} of {every[edit]:,} copies go ({went[edit] / every[edit]:.2%})")
    print(f"  copies as alike as {similarity:g}: {alike_gone:,} of {alike:,} go ({alike_gone / alike:.2%})")
    print(f"  all copies: {copies / len(planted):.2%}; rows that go and are no copy: {others} ({share:.4%})")


def main() -> None:
    """Make the texts, run each side in a process of its own, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--similarity", type=float, default=0.7)
    parser.add_argument("--others", default="")
    parser.add_argument("--side", default="")
    parser.add_argument("--url", default="")
    asked = parser.parse_args()
    if asked.side:
        side(asked.side, asked.url, asked.similarity)
        return
    made = texts(asked.rows)
    print(f"{asked.rows:,} rows, {sum(map(len, made[0])) / 1e6:.0f} MB of text, similarity {asked.similarity:g}")
    for name in ("quiver", *filter(None, asked.others.split(","))):
        with tempfile.TemporaryDirectory(prefix="quiver-bench-") as folder:
            write(f"{folder}/rows", made[0])
            command = [sys.executable, "-m", "tests.benchmarks.near_dedup", "--side", name, "--url", f"{folder}/rows"]
            done = subprocess.run(
                [*command, "--similarity", str(asked.similarity)],
                capture_output=True,
                text=True,
                check=False,
                env=os.environ,
            )
        if done.returncode:
            print(f"{name}: skipped ({done.stderr.strip().splitlines()[-1]})")
            continue
        report(name, json.loads(done.stdout.splitlines()[-1]), made, asked.similarity)


if __name__ == "__main__":
    main()
