"""Input files: what a person named is read through links; what lies below a dataset's root is not."""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

import pytest

from datakit.apply import apply
from datakit.formats import sources
from datakit.io import Jsonl
from datakit.tokenize import Adopt
from schemas.dataset import Dataset
from schemas.errors import ConfigError, IntegrityError
from schemas.store.storage import normal, shown
from schemas.tokenizer import read_folder

ROWS = '{"prompt": "a", "response": "b"}\n'


def test_a_linked_file_is_read_and_has_the_identity_of_its_content(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs/1f").write_text(ROWS)
    (tmp_path / "folder").symlink_to("blobs")
    (tmp_path / "rows.jsonl").symlink_to("folder/1f")
    linked = Jsonl(files=(str(tmp_path / "rows.jsonl"),), format="completions", source="s")
    plain = Jsonl(files=(str(tmp_path / "blobs/1f"),), format="completions", source="s")
    assert linked.params() == plain.params()
    assert apply(linked, [], str(tmp_path / "out")).read()["response"].to_pylist() == ["b"]


def test_a_link_to_nothing_or_to_a_device_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nothing")
    with pytest.raises(ConfigError, match="there is no file"):
        Jsonl(files=(str(tmp_path / "gone.jsonl"),), format="prompts").params()
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="is a pipe or a device"):
        Jsonl(files=(str(tmp_path / "zero.jsonl"),), format="prompts").params()


def test_a_linked_shard_stays_refused(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(ROWS)
    made = apply(Jsonl(files=(str(tmp_path / "rows.jsonl"),), format="completions"), [], str(tmp_path / "out"))
    shard = Path(made.paths()[0])
    shutil.move(shard, tmp_path / "elsewhere.parquet")
    shard.symlink_to(tmp_path / "elsewhere.parquet")
    with pytest.raises(IntegrityError, match="is a link"):
        Dataset.open(made.url).read()


def test_a_tokenizer_of_links_is_adopted_and_one_of_a_checkpoint_is_not_followed(
    shared_data: Path, tmp_path: Path
) -> None:
    source = shared_data / "tokenizer-oasst-tiny"
    (tmp_path / "snapshot").mkdir()
    for file in source.iterdir():
        (tmp_path / "snapshot" / file.name).symlink_to(file)
    linked, plain = (Adopt(path=str(path)).pinned() for path in (tmp_path / "snapshot", source))
    assert linked.identity == plain.identity
    assert read_folder(tmp_path / "snapshot") == read_folder(source)
    (tmp_path / "snapshot" / "_manifest.json").write_text("{}")  # a folder of ours
    with pytest.raises(IntegrityError, match="is a link"):
        read_folder(tmp_path / "snapshot")


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "rows.jsonl").write_text(ROWS)
    assert normal("~/a") == normal("file://~/a") == f"{tmp_path}/a"
    assert normal("a/~b") == os.path.abspath("a/~b")
    assert len(list(Jsonl(files=("~/rows.jsonl",), format="completions").pinned().digests)) == 1


def test_a_signed_address_is_refused_and_never_shown() -> None:
    address = "s3://bucket/rows.jsonl?X-Amz-Credential=AKIAXXXX&X-Amz-Signature=0123"
    with pytest.raises(ConfigError) as caught:
        Jsonl(files=(address,), format="prompts").params()
    assert caught.value.slug == "query-in-url"
    assert "Signature" not in str(caught.value) and "AKIA" not in str(caught.value)
    assert shown(address) == "s3://bucket/rows.jsonl"


def test_an_import_reads_its_files_once_for_their_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text(ROWS)
    read: list[str] = []
    real = sources._sha256

    def counted(stream: BinaryIO) -> str:
        read.append(real(stream))
        return read[-1]

    monkeypatch.setattr(sources, "_sha256", counted)
    made = apply(Jsonl(files=(str(tmp_path / "rows.jsonl"),), format="completions"), [], str(tmp_path / "out"))
    assert read == [sha256(ROWS.encode()).hexdigest()]
    assert made.manifest.op is not None
    assert made.manifest.op["params"]["digests"] == read
