"""Packed sequences of NeMo-Aligner: against a plain reading of the same pickle, and files that try something else."""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datakit.apply import apply
from datakit.formats import parquet_child
from datakit.io import Npy
from datakit.op import Context
from schemas.errors import DataError, IntegrityError
from tests.datakit.fakes import Example
from tests.tail import late

SFT = [
    {"input_ids": [5, 6, 7, 8, 5, 9, 8], "loss_mask": [0, 1, 1, 0, 1, 1, 0], "seq_start_id": [0, 4]},
    {"input_ids": [5, 9, 8], "loss_mask": [True, True, False], "seq_start_id": [0]},
]
DPO = [
    {
        "input_ids": [1, 2, 3, 1, 2, 4, 4, 7, 8, 7, 9], "labels": [-100, 2, 3, -100, -100, 4, 4, -100, 8, -100, 9],
        "reward": [1.0, 0.0, 0.5, -2.0], "lengths": [3, 3, 2, 2], "seq_boundaries": [0, 3, 7, 9, 11],
    },
]  # fmt: skip


def saved(path: Path, items: Any) -> str:
    array = np.empty(len(items), object)
    array[:] = items
    np.save(path, array, allow_pickle=True)
    return str(path)


HERE = Path(__file__).parent
EXAMPLES = [Example(Npy(files=(str(HERE / "packed.npy"),), format="packed_sft"))]


def load(path: str, form: Any) -> list[dict[str, Any]]:
    return [row for result in Npy(files=(path,), format=form).read(Context()) for row in result.rows.to_pylist()]


def test_packed_answers_with_the_mask_on_the_token_that_is_predicted(tmp_path: Path) -> None:
    """NeMo pairs mask[i] with label i + 1 (the first token of a sequence is never predicted)."""
    rows = load(saved(tmp_path / "a.npy", SFT), "packed_sft")
    assert [row["input_ids"] for row in rows] == [item["input_ids"] for item in SFT]
    assert [row["loss_mask"] for row in rows] == [[0, 0, 1, 1, 0, 1, 1], [0, 1, 1]]
    assert [row["lengths"] for row in rows] == [[4, 3], [3]]
    first, again = rows[0]["sample_ids"][1], rows[1]["sample_ids"][0]
    assert again == f"{first}-1", "the same sequence twice"
    assert rows == load(str(HERE / "packed.npy"), "packed_sft")


def test_packed_pairs_without_the_padding_inside(tmp_path: Path) -> None:
    (row,) = load(saved(tmp_path / "a.npy", DPO), "packed_dpo")
    expected = {
        "chosen_ids": [1, 2, 3, 7, 8], "chosen_mask": [0, 1, 1, 0, 1], "chosen_lengths": [3, 2],
        "rejected_ids": [1, 2, 4, 7, 9], "rejected_mask": [0, 0, 1, 0, 1], "rejected_lengths": [3, 2],
        "chosen_reward": [1.0, 0.5], "rejected_reward": [0.0, -2.0],
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    assert len(set(row["pair_ids"])) == 2


def test_the_packs_of_nemo_aligners_own_test(shared_data: Path, tmp_path: Path) -> None:
    """Against a loop over what the trusted file's pickle holds."""
    path = shared_data / "nemo-aligner/functional/dummy_dpo_packed_90.npy"
    made = apply(Npy(files=(str(path),), format="packed_dpo"), [], str(tmp_path / "out")).read().to_pylist()
    items = np.load(path, allow_pickle=True)
    assert len(made) == len(items) == 100
    for row, item in zip(made, items, strict=True):
        sides: list[list[int]] = [[], []]
        masks: list[list[int]] = [[], []]
        for at, (start, end) in enumerate(zip(item["seq_boundaries"], item["seq_boundaries"][1:], strict=False)):
            sides[at % 2] += item["input_ids"][start:end]
            masks[at % 2] += [int(label != -100) for label in item["labels"][start:end]]
        assert [row["chosen_ids"], row["rejected_ids"]] == sides
        assert [row["chosen_mask"], row["rejected_mask"]] == masks
        assert row["chosen_reward"] == item["reward"][::2]


@pytest.mark.parametrize("kind", [np.int64, late(np.int32), late(np.uint8), np.float32])
def test_arrays_inside_items_are_read_too(kind: Any, tmp_path: Path) -> None:
    arrays = [{name: np.array(value, kind) for name, value in item.items()} for item in SFT]
    assert load(saved(tmp_path / "a.npy", arrays), "packed_sft") == load(saved(tmp_path / "b.npy", SFT), "packed_sft")
    scalars = [{name: [kind(one) for one in value] for name, value in item.items()} for item in SFT]
    assert load(saved(tmp_path / "c.npy", scalars), "packed_sft") == load(str(tmp_path / "b.npy"), "packed_sft")


@pytest.mark.parametrize("protocol", [2, late(3), late(4), 5])
def test_every_protocol_of_a_pickle(protocol: int, tmp_path: Path) -> None:
    whole = saved(tmp_path / "a.npy", SFT)
    head = Path(whole).read_bytes()[:128]
    array = np.load(whole, allow_pickle=True)
    (tmp_path / "b.npy").write_bytes(head + pickle.dumps(array, protocol))
    assert load(str(tmp_path / "b.npy"), "packed_sft") == load(whole, "packed_sft")


class _Runs:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def test_a_file_that_runs_something_runs_nothing(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for items in ([_Runs(canary)], [{**SFT[0], "input_ids": _Runs(canary)}], [{"input_ids": [Path("x")]}]):
        with pytest.raises(IntegrityError) as fault:
            load(saved(tmp_path / "a.npy", items), "packed_sft")
        assert fault.value.code == 11 and "asks for" in fault.value.found
    assert not canary.exists()


def bomb() -> bytes:
    """One item whose key is pairs of pairs, 60 deep, each of one pair twice: its hash takes 2^60 steps."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|O", "fortran_order": False, "shape": (1,)})
    return head.getvalue() + b"\x80\x02]}K\x01\x85" + b"2\x86" * 60 + b"K\x01sa."


def test_a_small_file_gets_little_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_child, "SECONDS", 0)
    (tmp_path / "bomb.npy").write_bytes(bomb())
    began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with pytest.raises(IntegrityError) as fault:
        load(str(tmp_path / "bomb.npy"), "packed_sft")
    assert "more work than a file of its size" in fault.value.found
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began < 20


def _deep(levels: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(levels):
        nested = [nested]
    return nested


@pytest.mark.parametrize(
    "items",
    [
        [1, 2], late(["text"]), [{**SFT[0], 5: [1]}], [{"input_ids": "abc"}],
        late([{**SFT[0], "input_ids": [[5]] * 7}]), [{**SFT[0], "more": _deep(400)}],
        [{**SFT[0], "input_ids": [1 << 40] * 7}],
        [SFT[0], {"input_ids": [1]}], late([{"input_ids": [1]}]), [{**SFT[0], "seq_start_id": [0, 4, 4]}],
        late([{**SFT[0], "seq_start_id": [1]}]), late([{**SFT[0], "seq_start_id": [0, 7]}]),
        late([{**SFT[0], "seq_start_id": []}]), [{**SFT[0], "loss_mask": [0, 1]}],
        late([{**SFT[0], "loss_mask": [2] * 7}]),
        [{**SFT[0], "input_ids": [1.5] * 7}], late([{**SFT[0], "input_ids": [-1] * 7}]),
        late([{**SFT[0], "input_ids": [float("nan")] * 7}]),
    ],
)  # fmt: skip
def test_items_of_another_shape_are_refused(items: Any, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError):
        load(saved(tmp_path / "a.npy", items), "packed_sft")


@pytest.mark.parametrize(
    "wrong",
    [
        {"seq_boundaries": [0, 3, 7, 9]}, late({"seq_boundaries": [0, 3, 7, 11]}), late({"seq_boundaries": []}),
        {"lengths": [9, 3, 2, 2]},
        {"reward": [math.nan, 0.0, 0.5, -2.0]}, late({"reward": [1.0, math.inf, 0.5, -2.0]}),
        {"reward": [1.0]}, late({"labels": [7] * 11}), {"labels": [1]}, late({"lengths": [0, 3, 2, 2]}),
    ],
)  # fmt: skip
def test_pairs_of_another_shape_are_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(IntegrityError):
        load(saved(tmp_path / "a.npy", [{**DPO[0], **wrong}]), "packed_dpo")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [1e300, late(-1e300), math.nan, late(math.inf), late(0.5), -1])
def test_numbers_that_are_no_ids_are_refused_without_a_warning(number: float, tmp_path: Path) -> None:
    for name in ("input_ids", "loss_mask", "seq_start_id"):
        given = [number, *SFT[0][name][1:]]
        with pytest.raises(IntegrityError):
            load(saved(tmp_path / "a.npy", [{**SFT[0], name: given}]), "packed_sft")


def test_items_that_are_one_and_the_same_are_counted_before_they_are_read(tmp_path: Path) -> None:
    """A thousand million numbers, in a file of a megabyte: reading them until it is too much would take minutes."""
    shared = {"input_ids": [7] * 200_000, "loss_mask": [1] * 200_000, "seq_start_id": [0]}
    bomb, started = saved(tmp_path / "bomb.npy", [shared] * 5_000), os.times()
    with pytest.raises(DataError, match="expands"):
        load(bomb, "packed_sft")
    assert os.times().children_user - started.children_user < 8


def test_torn_files_bombs_and_plain_arrays_are_refused(tmp_path: Path) -> None:
    whole = Path(saved(tmp_path / "a.npy", SFT)).read_bytes()
    shared = {"input_ids": [7] * 20_000, "loss_mask": [1] * 20_000, "seq_start_id": [0]}
    np.save(tmp_path / "plain.npy", np.arange(10))
    bomb = saved(tmp_path / "bomb.npy", [shared] * 400)
    for name, data in (("torn", whole[:-20]), ("head", whole[:60]), ("none", b""), ("text", b'{"a": 1}')):
        (tmp_path / f"{name}.npy").write_bytes(data)
    for name in ("torn", "head", "none", "text", "plain"):
        with pytest.raises(IntegrityError):
            load(str(tmp_path / f"{name}.npy"), "packed_sft")
    with pytest.raises(DataError, match="expands"):
        load(bomb, "packed_sft")
    draw = np.random.default_rng(3)
    for _ in range(4):
        at = int(draw.integers(128, len(whole)))
        (tmp_path / "flip.npy").write_bytes(
            whole[:at] + bytes([whole[at] ^ 1 << int(draw.integers(8))]) + whole[at + 1 :]
        )
        with contextlib.suppress(DataError, IntegrityError):
            rows = load(str(tmp_path / "flip.npy"), "packed_sft")
            assert [len(row["input_ids"]) for row in rows] == [7, 3], "nothing but a number changed"
