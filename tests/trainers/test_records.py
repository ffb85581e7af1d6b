"""What training saw of every row, and the loss of every source: against the run's own figures, and through stops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from schemas import PACKS, TOKENS
from schemas.dataset import Dataset
from schemas.errors import ConflictError, IntegrityError, Stopped
from schemas.manifest import Parent
from schemas.rows.records import RECORDS, records_of
from schemas.settings import parse
from schemas.store.commit import read_manifest
from tests.tail import late
from tests.trainers import toys
from tests.trainers.test_run import stopping_after
from trainers import registry
from trainers import run as runs
from trainers.config import Run
from trainers.engine.data.sources import MOST, OTHER, Sources
from trainers.engine.reporting import records as engine
from trainers.engine.reporting.records import Records


def sourced(rows: int) -> pa.Table:
    table = toys.tokens(rows)
    sources = [("web", "books", None)[i % 3] for i in range(rows)]
    return table.set_column(3, table.schema.field(3), pa.array(sources, pa.string()))


def go(folder: Path, **changes: Any) -> Run:
    """Eight steps over 31 rows with sources, three steps an epoch, recorded."""
    if not Dataset.exists(str(folder / "sourced")):
        toys.put(folder / "sourced", TOKENS, sourced(31).slice(0, 20), sourced(31).slice(20))
    settings = {"data": str(folder / "sourced"), "records": str(folder / "seen"), "track": [], **changes}
    run = parse(Run, toys.config(folder, **settings))
    torch.set_num_threads(1)
    runs.execute(run)
    return run


def seen(run: Run) -> list[dict[str, Any]]:
    assert run.paths.records is not None
    return Dataset.open(run.paths.records).read().to_pylist()


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("straight")
    toys.put(folder / "held-out", TOKENS, sourced(9))
    return go(folder, validation=str(folder / "held-out"))


def test_every_row_of_every_epoch_once_in_the_order_of_the_steps(straight: Run) -> None:
    rows, log = seen(straight), toys.row_log(straight.paths.folder)
    assert [(row["step"], row["sample_id"]) for row in rows] == [(li["step"], n) for li in log for n in li["rows"]]
    assert len({(row["sample_id"], row["epoch"]) for row in rows}) == len(rows) == 31 + 31 + 24
    counted = {row["sample_id"]: sum(row["loss_mask"][1:]) for row in sourced(31).to_pylist()}
    origin = {row["sample_id"]: row["source"] for row in sourced(31).to_pylist()}
    assert all(row["weight"] == counted[row["sample_id"]] for row in rows)
    assert all(row["source"] == origin[row["sample_id"]] for row in rows)
    data = Dataset.open(str(straight.paths.records))
    assert data.schema == records_of("sample_id") and data.task_key and data.facts == {"missing_steps": []}
    assert data.manifest.op["name"] == "train.sft.records"
    assert [parent.name for parent in data.manifest.parents] == ["data"]
    assert not (straight.paths.folder / "records").exists()


def mean(rows: list[dict[str, Any]]) -> float:
    return float(sum(row["loss"] * row["weight"] for row in rows) / sum(row["weight"] for row in rows))


def test_they_add_up_to_the_loss_of_the_step_and_of_its_sources(straight: Run) -> None:
    rows = seen(straight)
    lines = [line for line in toys.curve(straight.paths.folder) if "loss" in line]
    assert len(lines) == 8
    for line in lines:
        here = [row for row in rows if row["step"] == line["step"]]
        assert math.isclose(mean(here), line["loss"], rel_tol=1e-6)
        for name, source in (("web", "web"), ("books", "books"), (OTHER, None)):
            expected = mean([row for row in here if row["source"] == source])
            assert math.isclose(expected, line[f"loss/{name}"], rel_tol=1e-6)


def test_validation_tells_sources_and_the_best_step(straight: Run) -> None:
    lines = [line for line in toys.curve(straight.paths.folder) if "val_loss" in line]
    assert [line["step"] for line in lines] == [3, 6, 8], "without validate_every at the end of every epoch"
    assert lines[0].keys() == {"step", "val_loss", "val_loss/books", "val_loss/web", "val_loss/other"}
    manifest = read_manifest(straight.paths.out)
    assert manifest is not None
    best = min(lines, key=lambda line: float(line["val_loss"]))
    stats = manifest.facts["stats"]
    assert (stats["best_val_loss"], stats["best_step"]) == (best["val_loss"], best["step"])


@pytest.mark.parametrize("steps", [(1,), late((2, 3, 7))])
def test_a_stopped_run_has_the_same_records(
    straight: Run, steps: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0
    for step in steps:
        with stopping_after(step - done, monkeypatch), pytest.raises(Stopped):
            go(tmp_path)
        done = step
    spooled = (tmp_path / "policy.run" / "records" / "steps-000000001-000000001.records").exists()
    assert spooled == (1 in steps)
    assert seen(go(tmp_path)) == seen(straight)
    shards = [Dataset.open(str(place)).shards[0].sha256 for place in (straight.paths.records, tmp_path / "seen")]
    assert shards[0] == shards[1]


def test_a_run_that_died_between_saves_takes_back_what_it_will_tell_again(straight: Run, tmp_path: Path) -> None:
    """Steps 5 to 7 are on disk and in the journal, the newest save is of step 4; a rewind that was cut short too."""
    rows = [row for row in seen(straight) if row["step"] <= 7]
    folder = tmp_path / "records"
    folder.mkdir()
    for start, stop in ((1, 3), (4, 7)):
        part = [row for row in rows if start <= row["step"] <= stop]
        engine._write(folder, (start, stop), pa.Table.from_pylist(part, schema=records_of("sample_id").arrow))
    (folder / "steps-000000008-000000009.records.new").write_bytes(b"torn")
    records = Records(folder, "sample_id", (), 4)
    assert sorted(path.name for path in folder.iterdir()) == [
        "steps-000000001-000000003.records",
        "steps-000000004-000000004.records",
    ]
    assert records.missing == [] and Records(folder, "sample_id", (), 6).missing == [(5, 6)]
    (folder / "steps-000000004-000000004.records").write_bytes(b"torn")
    with pytest.raises(IntegrityError, match="cannot be read"):
        Records(folder, "sample_id", (), 4)


def test_a_flipped_bit_is_an_error_and_never_another_row(tmp_path: Path) -> None:
    """Every byte of a piece, one bit of it: when the run goes on, and when a piece is spoilt after that."""
    numbers = np.array([[1.5, 2.0], [0.25, 1.0]])
    records = Records(tmp_path / "spool", "sample_id", (), 0)
    records.add(1, 0, ["5c9fc1c0c982f6fc", "first"], ["web", None], numbers)
    records.flush()
    [piece] = (tmp_path / "spool").iterdir()
    whole = piece.read_bytes()
    for at in range(len(whole)):
        piece.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        with pytest.raises(IntegrityError, match="cannot be read") as caught:
            Records(tmp_path / "spool", "sample_id", (), 1)
        assert caught.value.slug == "records-damaged" and str(piece) in caught.value.next
    with pytest.raises(IntegrityError, match="cannot be read"):
        records.publish(str(tmp_path / "out"), engine.RecordsManifest("k", {}, (), 0))
    assert not Dataset.exists(str(tmp_path / "out")) and piece.exists()
    piece.write_bytes(whole)
    records.publish(str(tmp_path / "out"), engine.RecordsManifest("k", {}, (), 0))
    assert Dataset.open(str(tmp_path / "out")).read()["sample_id"].to_pylist() == ["5c9fc1c0c982f6fc", "first"]


def test_records_of_a_run_over_other_rows_are_not_taken_for_those_of_this_one(tmp_path: Path) -> None:
    def publish(digest: str) -> None:
        records = Records(tmp_path / "spool", "sample_id", (), 0)
        records.add(1, 0, [digest], ["web"], np.array([[1.5, 2.0]]))
        parents = (Parent("data", "rows", digest, "key of the rows"),)
        records.publish(str(tmp_path / "out"), engine.RecordsManifest("k", {}, parents, 0))

    publish("a" * 64)
    publish("a" * 64)
    with pytest.raises(ConflictError, match="input-replaced"):
        publish("b" * 64)


def test_memory_and_shards_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MOST_WAITING", 10)
    monkeypatch.setattr(engine, "ROWS_PER_SHARD", 25)
    records = Records(tmp_path / "spool", "pair_id", ("margin",), 0)
    for step in range(1, 16):
        numbers = np.array([[2.0 * step, 2.0, 0.5], [0.0, 0.0, -1.0], [3.0, 1.0, 0.0], [1.0, 4.0, 0.0]])
        records.add(step, 0, [f"p{step}{i}" for i in "abcd"], None, numbers)
        assert len(list((tmp_path / "spool").glob("*"))) == step // 3
    records.publish(str(tmp_path / "out"), engine.RecordsManifest("k", {}, (), 0))
    data = Dataset.open(str(tmp_path / "out"))
    assert [shard.rows for shard in data.shards] == [25, 25, 10]
    rows = data.read().to_pylist()
    assert [row["step"] for row in rows[::4]] == list(range(1, 16)) and rows[4]["loss"] == 2.0
    assert rows[1]["loss"] is None and rows[1]["weight"] == 0 and rows[1]["margin"] == -1.0
    assert rows[0]["source"] is None and data.schema.key == ("pair_id", "epoch")


def test_packs_are_recorded_sequence_by_sequence(tmp_path: Path) -> None:
    table = sourced(10)
    kind = PACKS.adding(RECORDS["source"].__class__("sources", pa.list_(pa.string()), "of every sequence"))
    packed = toys.packed(table, (4, 1, 5))
    sources = table["source"].to_pylist()
    packed = packed.append_column("sources", pa.array([sources[:4], sources[4:5], sources[5:]], pa.list_(pa.string())))
    toys.put(tmp_path / "packs", kind, packed)
    toys.put(tmp_path / "rows", TOKENS, table)
    by_id = []
    for name in ("rows", "packs"):
        out = {"out": str(tmp_path / f"of-{name}"), "records": str(tmp_path / f"seen-{name}")}
        run = go(tmp_path, data=str(tmp_path / name), max_steps=1, optim={"lr": 1e-2}, **out)
        by_id.append({row["sample_id"]: row for row in seen(run)})
        assert {"loss/books", "loss/web", "loss/other"} <= toys.curve(run.paths.folder)[0].keys()
    assert by_id[0].keys() == by_id[1].keys() == {f"s{i}" for i in range(10)}
    for name, row in by_id[0].items():
        other = by_id[1][name]
        assert (row["weight"], row["source"]) == (other["weight"], other["source"])
        assert math.isclose(row["loss"], other["loss"], rel_tol=1e-5)


def test_an_algorithm_tells_its_own_of_every_row(tmp_path: Path) -> None:
    algorithm = registry.algorithms()["rm"]
    toys.put(tmp_path / "pairs", algorithm.rows, toys.rows_for(algorithm, 12))
    run = go(tmp_path, algorithm="rm", data=str(tmp_path / "pairs"), max_steps=1, optim={"lr": 1e-2})
    rows = seen(run)
    assert len(rows) == 12 and all(row["weight"] == 1 and row["source"] is None for row in rows)
    for row in rows:
        surprise = math.log1p(math.exp(row["reward_rejected"] - row["reward_chosen"]))
        assert math.isclose(row["loss"], surprise, rel_tol=1e-5)


def test_another_dataset_in_the_place_is_left_alone(straight: Run, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match="already holds a dataset of another run"):
        go(tmp_path, records=straight.paths.records, seed=3)
    assert not (tmp_path / "policy.run" / "metrics.jsonl").exists()


def test_records_asked_for_late_say_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with stopping_after(2, monkeypatch), pytest.raises(Stopped):
        go(tmp_path, records=None)
    run = go(tmp_path)
    assert "there will be no records of steps 1 to 2" in capfd.readouterr().err
    assert Dataset.open(str(run.paths.records)).facts == {"missing_steps": [[1, 2]]}
    assert {row["step"] for row in seen(run)} == set(range(3, 9))


def test_sources_are_counted_over_all_rows() -> None:
    sources = Sources()
    sources.add(pa.array([f"s{i % 70:02d}" for i in range(140)] + ["s69"] * 3 + [None]))
    sources.add(pa.array(["a", None]))
    names, places = sources.close()
    assert len(names) == MOST + 1 and names[-1] == OTHER and names[:2] == ("s00", "s01") and "s69" in names
    titles = [names[place] for place in places]
    assert titles[0] == "s00" and titles[69] == "s69" and titles[-1] == titles[-2] == titles[-3] == titles[68] == OTHER
    alone = Sources()
    alone.add(pa.array([None, None], pa.string()))
    assert alone.close()[0] == ()


def test_the_line_of_a_step_is_json(straight: Run) -> None:
    line = json.loads((straight.paths.folder / "metrics.jsonl").read_text().splitlines()[0])
    wanted = {"step", "epoch", "loss", "lr", "grad_norm", "rows", "tokens", "seconds", "wait_seconds"}
    assert wanted | {"tokens_per_second", "padding"} <= line.keys() and 0 <= line["padding"] < 0.5
    rate = line["tokens"] / (line["seconds"] + line["wait_seconds"])
    assert math.isclose(line["tokens_per_second"], rate, rel_tol=1e-3)
