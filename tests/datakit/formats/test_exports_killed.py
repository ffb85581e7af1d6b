"""An export that is killed at any moment: nothing of it stays for good, and the same export goes on from there."""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from datakit.formats.exports.export import TYPES
from datakit.formats.exports.write import export
from schemas.errors import ConflictError, StorageError
from schemas.store.local import LocalSink, LocalStore

USER, ASSISTANT, SYSTEM = ({"role": role, "content": role} for role in ("user", "assistant", "system"))
FORM = "nemo_aligner.chat_sft"
NAMES = {"rows.jsonl", "rows.jsonl.rejected.jsonl", "rows.jsonl.card.md"}


def dataset(put: Any, good: int = 2) -> Any:
    """Rows of which the last has no place in the format."""
    turns = [[USER, ASSISTANT]] * good + [[USER, SYSTEM, ASSISTANT]]
    return put(
        pa.table({"messages": pa.array(turns, TYPES["messages"]), "chat_id": [f"c{n}" for n in range(good + 1)]})
    )


def killed(source: Any, out: Path, kind: type, method: str, call: int) -> None:
    """An export in a process of its own, which ends by SIGKILL at that call (from 1) of a method of the store."""

    def work() -> None:
        whole, calls = getattr(kind, method), iter(range(1, call))

        def dying(*arguments: Any) -> Any:
            if next(calls, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return whole(*arguments)

        setattr(kind, method, dying)
        export(source, FORM, str(out), max_rejected=1)

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("kind", "method", "call"), [(LocalSink, "write", 2), (LocalStore, "move", 1), (LocalStore, "move", 2)]
)
def test_the_same_export_again_sweeps_and_succeeds(
    kind: type, method: str, call: int, put: Any, tmp_path: Path
) -> None:
    source, folder = dataset(put), tmp_path / "out"
    killed(source, folder / "rows.jsonl", kind, method, call)
    assert not (folder / "rows.jsonl").exists()
    assert any(name.startswith("_attempt-") for name in os.listdir(folder))
    written = export(source, FORM, str(folder / "rows.jsonl"), max_rejected=1)
    assert (written.rows, written.rejected) == (2, {"system-turn-inside": 1})
    assert set(os.listdir(folder)) == NAMES
    assert [len((folder / name).read_text().splitlines()) for name in sorted(NAMES) if name.endswith("l")] == [2, 1]


def test_rejected_rows_of_another_export_are_not_overwritten(put: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    killed(dataset(put), folder / "rows.jsonl", LocalStore, "move", 2)
    beside = folder / "rows.jsonl.rejected.jsonl"
    kept = beside.read_bytes()
    with pytest.raises(ConflictError, match="rejected rows beside it"):
        export(dataset(put, 3), FORM, str(folder / "rows.jsonl"), max_rejected=1)
    assert (set(os.listdir(folder)), beside.read_bytes()) == ({beside.name}, kept)


def test_an_export_that_is_refused_leaves_nothing(put: Any, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no place in"):
        export(dataset(put), FORM, str(tmp_path / "out" / "rows.jsonl"))
    assert not (tmp_path / "out").exists(), "the folder that it made is gone too"


def test_a_place_that_cannot_be_is_named_with_what_to_do(put: Any, tmp_path: Path) -> None:
    source = dataset(put)
    (tmp_path / "file").write_text("x")
    for out, slug, hint in (
        (tmp_path / "file" / "x", "not-a-folder", "a file stands where a folder is needed"),
        (tmp_path / ("n" * 250), "name-too-long", "a shorter name"),
        (Path("/proc/nothing/x"), "not-there", "another place"),
    ):
        with pytest.raises(StorageError, match=slug) as caught:
            export(source, FORM, str(out), max_rejected=1)
        assert hint in caught.value.next
        assert "could not remove" not in caught.value.what
    assert (tmp_path / "file").read_text() == "x"
