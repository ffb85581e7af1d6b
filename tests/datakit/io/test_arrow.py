"""Arrow files, streams and what `datasets` saves to disk (folders of its published shape); bombs of columns."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datakit.formats.layouts import reader_of
from datakit.io import Arrow, Parquet
from datakit.op import Context
from schemas.errors import ConfigError, DataError
from tests.datakit.fakes import Example

EXAMPLES = [Example(Arrow(files=(str(Path(__file__).with_name("prompts.arrow")),), format="prompts"))]


def write(path: Path, prompts: list[str], stream: bool = True) -> None:
    table = pa.table({"prompt": prompts, "unused": list(range(len(prompts)))})
    path.parent.mkdir(parents=True, exist_ok=True)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=3)


def save(folder: Path, *shards: list[str], **more: object) -> None:
    names = [f"data-{n:05d}-of-{len(shards):05d}.arrow" for n in range(len(shards))]
    for name, prompts in zip(names, shards, strict=True):
        write(folder / name, prompts)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "1f", "_split": "train", **more}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": {}}))


def prompts(place: Path, **settings: object) -> list[str]:
    assert reader_of((str(place),)) == ("io.arrow", {})
    results = Arrow(files=(str(place),), format="prompts", **settings).read(Context())
    return [row["messages"][0]["content"] for result in results for row in result.rows.to_pylist()]


@pytest.mark.parametrize("stream", [True, False])
def test_a_file_or_a_stream_is_read_in_its_order(tmp_path: Path, stream: bool) -> None:
    wanted = [f"q{n}" for n in range(10)]
    write(tmp_path / "a.ARROW", wanted, stream)
    assert prompts(tmp_path / "a.ARROW") == wanted


def test_a_saved_folder_is_its_files_and_its_identity_their_content(tmp_path: Path) -> None:
    save(tmp_path / "one", ["a", "b"], ["c"])
    assert prompts(tmp_path / "one") == ["a", "b", "c"]
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict/dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    save(tmp_path / "dict/train", ["a", "b"], ["c"])
    save(tmp_path / "dict/test", ["d"])
    assert prompts(tmp_path / "dict", split="test") == ["d"]
    alone = Arrow(files=(str(tmp_path / "one"),), format="prompts")
    chosen = Arrow(files=(str(tmp_path / "dict"),), format="prompts", split="train")
    assert alone.params() == chosen.params()
    for split in (None, "tset"):
        with pytest.raises(ConfigError, match="holds several splits") as caught:
            prompts(tmp_path / "dict", split=split)
        assert caught.value.expected == "one of train, test" and "split" in caught.value.next


def test_a_saved_folder_cannot_lead_outside_or_hide_its_order(tmp_path: Path) -> None:
    save(tmp_path / "out", ["a"], _data_files=[{"filename": "../secret.arrow"}])
    with pytest.raises(Exception, match="leaves its folder"):
        prompts(tmp_path / "out")
    save(tmp_path / "indexed", ["a"], _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(DataError, match="selection of rows"):
        prompts(tmp_path / "indexed")


def test_damaged_files_are_errors_or_give_the_very_rows(tmp_path: Path) -> None:
    path, wanted = tmp_path / "a.arrow", [f"prompt {n}" for n in range(50)]
    write(path, wanted)
    whole = path.read_bytes()
    for data in (
        whole[: len(whole) // 2],
        b"\xff\xff\xff\xff" + b"\xff" * 64,
        whole[:300] + b"\xff" * 32 + whole[332:],
    ):
        path.write_bytes(data)
        try:
            assert set(prompts(path)) <= set(wanted)
        except DataError:
            pass


def test_columns_that_expand_beyond_the_cap_are_refused(tmp_path: Path) -> None:
    text = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), ["x" * 100_000])
    pq.write_table(pa.table({"prompt": text.cast(pa.string())}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < 100_000
    with pytest.raises(DataError) as caught:
        list(Parquet(files=(str(tmp_path / "a.parquet"),), format="prompts").read(Context()))
    assert caught.value.slug == "too-large"
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    table = pa.table({"prompt": ["x" * 100_000] * 4000})
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(DataError) as caught:
        prompts(tmp_path / "a.arrow")
    assert caught.value.slug == "too-large"


@pytest.mark.parametrize("rows", [3, 5000])
def test_text_that_is_no_utf8_is_named_by_its_column_whatever_the_batch(tmp_path: Path, rows: int) -> None:
    """A batch is looked through once, before it is cut into the batches that are handed on."""
    broken = pa.array([b"fine"] * (rows - 1) + [b"\xff\xfe"], pa.binary()).view(pa.string())
    table = pa.table({"unused": range(rows), "prompt": broken})
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError) as caught:
        prompts(tmp_path / "a.arrow")
    assert "column prompt, rows from 1" in caught.value.found
