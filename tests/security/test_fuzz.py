"""The fuzzers themselves: a short run finds nothing, and what they exist to find is counted."""

from __future__ import annotations

import ctypes
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas.errors import DataError
from schemas.store.owner import Owner
from tests.security.fuzz import batch, fuzz, main, mutated, outcome, report, tried
from tests.security.fuzz_targets import Target, targets
from tests.tail import late

ROOT = Path(__file__).resolve().parents[2]
QUICK = ("manifest", "owner", "run", "safetensors", "torch-index", "tokenizer", "config", "sentencepiece", "rows-jsonl")


SHORT_RUN = f"""
from pathlib import Path
from tests.security.fuzz import fuzz, report
from tests.security.fuzz_targets import targets
known = targets()
counts = fuzz({{name: known[name] for name in {QUICK}}}, 2.0, 7, Path("kept").absolute())
assert all(sum(tally.outcomes.values()) >= 50 for tally in counts.values())
raise SystemExit(not report(counts))
"""

VALID_SEEDS = """
import torch  # once: every child has it then
from tests.security.fuzz import batch
from tests.security.fuzz_targets import targets
for name, target in targets().items():
    for parse in filter(None, (target.parse, target.here)):
        ends = [(name, kind, fault) for _, kind, fault in batch(parse, target.seeds, ".")]
        assert ends == [(name, "accepted", "")] * len(target.seeds)
"""


@pytest.mark.parametrize(
    "program", [late(SHORT_RUN, id="a-short-run-finds-nothing"), pytest.param(VALID_SEEDS, id="valid-seeds-are-taken")]
)
def test_in_a_process_of_its_own(tmp_path, program):
    """Forks of the fuzzer copy none of what pytest and other tests have loaded, threads of libraries above all."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_whatever_ends_a_parser_is_counted_and_the_rest_goes_on(tmp_path, capsys):
    def parse(data: bytes, folder: str) -> None:
        if data == b"crash":
            ctypes.string_at(0)
        elif data == b"bomb":
            bytearray(64 << 30)
        elif data == b"bug":
            raise KeyError("bug")
        elif data == b"refused":
            raise DataError("x", "no")

    inputs = [b"fine", b"crash", b"bomb", b"bug", b"refused", b"fine"]
    kinds = [kind for _, kind, _ in batch(parse, inputs, str(tmp_path))]
    assert kinds == ["accepted", "signal", "over memory", "traceback", "refused", "accepted"]
    counts = fuzz({"bad": Target(lambda data, folder: 1 / 0, (b"seed",), 5)}, 0.0, 1, tmp_path / "kept")
    assert not report(counts)
    assert "ZeroDivisionError" in capsys.readouterr().out
    assert (tmp_path / "kept" / "bad-1.bin").exists()


def burn(data: bytes, folder: str) -> None:
    end = time.process_time() + len(data)
    while time.process_time() < end:
        pass


def wait(data: bytes, folder: str) -> None:
    time.sleep(len(data))


@pytest.mark.parametrize(("parse", "limit"), [(burn, "ALARM_SECONDS"), (wait, "WALL_SECONDS")])
def test_a_hang_is_ended(tmp_path, monkeypatch, parse, limit):
    monkeypatch.setattr(f"tests.security.fuzz.{limit}", 1)
    assert [kind for _, kind, _ in batch(parse, [b"x" * 60, b""], str(tmp_path))] == ["hang", "accepted"]


def test_equal_seeds_make_equal_inputs():
    seeds = targets()["manifest"].seeds
    one, two = (mutated(random.Random(5), seeds) for _ in range(2))
    assert one == two
    assert main(["--seconds", "0", "--only", "manifest"]) == 0


def test_work_without_its_process_is_judged_by_the_process_where_a_limit_would_stop_it(tmp_path):
    def here(data: bytes, folder: str) -> None:
        if data == b"crash":
            ctypes.string_at(0)
        raise KeyError("bug") if data == b"bug" else DataError("x", "no")

    def whole(data: bytes, folder: str) -> None:
        with Path(folder, "whole").open("ab") as file:
            file.write(data + b"\n")
        if data == b"crash":
            raise DataError("x", "stopped")

    given = [b"1", b"bug", b"crash", b"2"]
    kinds = {data: kind for data, kind, _ in tried(Target(whole, (), 4, here), given, str(tmp_path))}
    assert kinds == {b"1": "accepted", b"bug": "traceback", b"crash": "refused", b"2": "refused"}
    assert Path(tmp_path, "whole").read_bytes().split() == [b"1", b"crash"]


def test_the_oracle_of_owners_can_fail(monkeypatch):
    [owner] = targets()["owner"].seeds
    parse = targets()["owner"].parse
    assert outcome(parse, owner, "") == ("accepted", "") and outcome(parse, owner[:-1], "") == ("refused", "")
    for lax in (lambda data: Owner("", "", "", 1, "", ""), lambda data: None):
        monkeypatch.setattr(Owner, "from_bytes", staticmethod(lax))
        assert "traceback" in {outcome(parse, data, "")[0] for data in (owner, owner[:-1])}
