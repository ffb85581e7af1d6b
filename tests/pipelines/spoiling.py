"""Sound folders made unsound: what a fault of a user looks like, and the ways to bring it about."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
from commands import PATH, ROOT

Spoil = Callable[[Path], object]

ROWS = [{"prompt": f"question {n}", "response": f"answer {n}", "reward": n / 4} for n in range(6)]
LINES = [json.dumps(row) for row in ROWS]
IMPORT = "Import --files bad.jsonl --format rewarded"
FILTER = "Filter --data rows.jsonl --op"


@dataclass(frozen=True, kw_only=True)
class Fault:
    """`@rows` and the like in a command are the finished datasets of `toy.Base`."""

    command: str
    line: str
    more: str = ""
    spoil: Spoil = lambda folder: None
    mend: Spoil = lambda folder: None
    then: str = ""
    reason: str = ""
    stands: str = ""
    module: str = "pipelines"
    environment: dict[str, str] = field(default_factory=dict)
    bound: bool = False


def lines(*texts: str | bytes) -> Spoil:
    """bad.jsonl holds these lines between sound ones."""
    parts = [text if isinstance(text, bytes) else text.encode() for text in (*LINES[:2], *texts, *LINES[2:])]
    return lambda folder: (folder / "bad.jsonl").write_bytes(b"\n".join(parts) + b"\n")


def row(line: str, reason: str, *texts: str | bytes) -> Fault:
    """A row that does not fit: the import stops; with a budget the row stands aside with its reason."""
    return Fault(
        command=IMPORT,
        spoil=lines(*texts),
        line=f"error[10/{reason}]: io.jsonl rejected 1 of the first {6 + len(texts)} rows: bad.jsonl:{line}",
        then=f"{IMPORT} --quiver-max-rejected 0.5",
        reason=reason,
    )


def config(text: str, line: str, more: str = "") -> Fault:
    """A luigi.cfg that says something wrong."""
    return Fault(
        command=f"{FILTER} threshold --params '{{\"minimum\": 1}}'",
        spoil=lambda folder: (folder / "luigi.cfg").write_text(text),
        mend=lambda folder: (folder / "luigi.cfg").unlink(),
        line=line,
        more=more,
    )


def file(pattern: str, change: Callable[[bytes], bytes | None]) -> Spoil:
    """The bytes of one file below the root become others; None removes it."""

    def spoil(folder: Path) -> None:
        (path,) = (folder / "quiver-data").glob(pattern)
        changed = change(path.read_bytes())
        path.unlink()
        if changed is not None:
            path.write_bytes(changed)

    return spoil


def flipped(data: bytes) -> bytes:
    return data[:40] + bytes([data[40] ^ 1]) + data[41:]


def halved(data: bytes) -> bytes:
    return data[: len(data) // 2]


def prompts(*ids: str) -> pa.Table:
    from schemas import PROMPTS

    table = PROMPTS.example(len(ids))
    return table.set_column(0, table.schema.field(0), pa.array(ids, pa.string()))


def doubled(folder: Path) -> None:
    """A dataset from elsewhere in which an id stands in two shards."""
    from schemas import PROMPTS
    from schemas.dataset import Attempt

    attempt = Attempt.begin(str(folder / "doubled"), PROMPTS)
    files = []
    for shard, ids in enumerate((("a", "b"), ("c", "a"))):
        with attempt.shard(shard) as writer:
            writer.write(prompts(*ids))
            files.append(writer.finish())
    attempt.commit(files)


def refusing(fault: str) -> dict[str, str]:
    """The environment in which the stores' system calls fail as `faults/refusing` says."""
    folder = ROOT / "tests" / "faults" / "refusing"
    return {"QUIVER_FAULT": fault, "PYTHONPATH": os.pathsep.join([str(folder), PATH])}


def zipped(folder: Path) -> None:
    (folder / "bad.jsonl").write_bytes(gzip.compress("\n".join(LINES * 50).encode())[:-20])
