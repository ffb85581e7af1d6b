"""Hostile models of NeMo: each is refused by name before anything of it is unpacked, run or believed."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from schemas.errors import IntegrityError, QuiverError
from schemas.nemo import archive, tar
from schemas.nemo.archive import Archive, small_files
from schemas.nemo.model import settings_at
from tests.trainers.weights import nemo_archives as nemo
from trainers.engine.weights.import_hf import import_hf

CONFIG = nemo.CONFIGS["llama-2"]
SETTINGS = {"model_config.yaml": yaml.safe_dump(CONFIG).encode(), "0123abcd_tokenizer.json": nemo.tokenizer_file()}
END = bytes(1024)


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, **fields: Any) -> bytes:
    """One member: header, bytes and what fills its last block up."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def pax(records: bytes) -> bytes:
    return member("pax", records, tarfile.XHDTYPE)


def whole(*members: bytes) -> bytes:
    return b"".join(members) + END


GOOD = member("./model_config.yaml", SETTINGS["model_config.yaml"])
LIE = member("./model_config.yaml", SETTINGS["model_config.yaml"])[:124] + b"77777777777\0"

TARS: dict[str, Callable[[], bytes]] = {
    "absolute": lambda: whole(GOOD, member("/etc/passwd", b"x")),
    "upwards": lambda: whole(GOOD, member("./a/../../x", b"x")),
    "upwards in pax": lambda: whole(GOOD, pax(b"15 path=../../x\n"), member("x", b"x")),
    "upwards in a long name": lambda: whole(member("n", b"../x\0", tarfile.GNUTYPE_LONGNAME), member("x", b"x")),
    "backslash": lambda: whole(GOOD, member("..\\x", b"x")),
    "newline": lambda: whole(GOOD, member("a\nb", b"x")),
    "no name": lambda: whole(member("./", b"x")),
    "symbolic link": lambda: whole(GOOD, member("model_weights.ckpt", kind=tarfile.SYMTYPE, linkname="/etc/passwd")),
    "link of a folder": lambda: whole(member("w", kind=tarfile.SYMTYPE, linkname="/tmp"), member("w/x", b"x")),
    "hard link": lambda: whole(GOOD, member("x", kind=tarfile.LNKTYPE, linkname="model_config.yaml")),
    "character device": lambda: whole(GOOD, member("x", kind=tarfile.CHRTYPE)),
    "block device": lambda: whole(GOOD, member("x", kind=tarfile.BLKTYPE)),
    "pipe": lambda: whole(GOOD, member("x", kind=tarfile.FIFOTYPE)),
    "sparse": lambda: whole(GOOD, member("x", kind=tarfile.GNUTYPE_SPARSE)),
    "sparse in pax": lambda: whole(pax(b"22 GNU.sparse.major=1\n"), member("x", b"x")),
    "header for all": lambda: whole(member("g", b"15 path=../../x\n", tarfile.XGLTYPE), GOOD),
    "unknown kind": lambda: whole(GOOD, member("x", kind=b"Z")),
    "twice": lambda: whole(GOOD, member("model_config.yaml", b"num_layers: 9")),
    "file and folder": lambda: whole(GOOD, member("model_config.yaml/x", b"x")),
    "size beyond the end": lambda: whole(pax(b"22 size=9999999999999\n"), member("x", b"x")),
    "size that is none": lambda: whole(pax(b"13 size=-512\n"), member("x", b"x")),
    "huge size in bytes": lambda: whole(member("x", b"x", size=1 << 60)),
    "folder with bytes": lambda: whole(GOOD, member("d", b"x" * 512, tarfile.DIRTYPE)),
    "huge header": lambda: whole(pax(b"9" * (1 << 20))),
    "broken pax": lambda: whole(pax(b"99 path=x\n"), member("x", b"x")),
    "checksum": lambda: whole(GOOD[:10] + b"x" + GOOD[11:]),
    "truncated": lambda: GOOD,
    "torn": lambda: whole(GOOD)[:700],
    "behind the end": lambda: whole(GOOD) + member("model_weights.ckpt", b"x") + END,
    "no UTF-8": lambda: whole(GOOD, member("x", b"x")).replace(b"x" + bytes(99), b"\xff" + bytes(99)),
    "no tar": lambda: b"MZ" * 4096,
    "empty": lambda: b"",
    "gzip torn": lambda: gzip.compress(whole(GOOD))[:-9],
    "gzip of no tar": lambda: gzip.compress(os.urandom(4096)),
    "gzip checksum": lambda: gzip.compress(whole(GOOD))[:-8] + bytes(8),
}  # fmt: skip


@pytest.mark.parametrize("name", TARS)
def test_an_archive_that_can_be_meant_in_two_ways_is_refused(tmp_path, name):
    path = tmp_path / "m.nemo"
    path.write_bytes(TARS[name]())
    for use in (settings_at, Archive):
        with pytest.raises(IntegrityError) as refused:
            use(str(path))
        assert refused.value.code == 11 and refused.value.slug == "bad-archive"
    assert sorted(os.listdir(tmp_path)) == ["m.nemo"]


class Hostile:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.canary}",)


def zipped(pickled: bytes, *more: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A file of `torch.save` with this pickle."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as file:
        for name, content in (("a/data.pkl", pickled), *more):
            file.writestr(name, content)
    return data.getvalue()


def saved(value: Any, **options: Any) -> bytes:
    data = io.BytesIO()
    torch.save(value, data, **options)
    return data.getvalue()


def storage(count: str = "4", key: str = "0", size: str = "(I4\nt", stride: str = "(I1\nt", offset: str = "0") -> bytes:
    """A pickle of one tensor, its numbers as they are given."""
    place = f"(S'storage'\nctorch\nFloatStorage\nS'{key}'\nS'cpu'\nI{count}\ntQ"
    return f"(dS'x'\nctorch._utils\n_rebuild_tensor_v2\n({place}I{offset}\n{size}{stride}I00\n(dtRs.".encode()


FOUR = ("a/data/0", bytes(16))
PICKLES: dict[str, Callable[[Path], bytes]] = {
    "call": lambda canary: saved({"x": Hostile(canary)}),
    "call in a tensor's place": lambda canary: zipped(pickle.dumps(Hostile(canary))),
    "old form": lambda canary: saved({"x": Hostile(canary)}, _use_new_zipfile_serialization=False),
    "plain pickle": lambda canary: pickle.dumps(Hostile(canary)),
    "eval": lambda canary: zipped(b"c__builtin__\neval\n(S'1'\ntR."),
    "getattr": lambda canary: zipped(b"c__builtin__\ngetattr\n(ctorch\nload\nS'x'\ntR."),
    "an object": lambda canary: zipped(b"(ios\nsystem\n."),
    "state of a function": lambda canary: zipped(b"ctorch._utils\n_rebuild_parameter\n(dS'__defaults__'\n(tsb."),
    "another function's name": lambda canary: zipped(b"\x80\x04\x8c\x05torch\x8c\x0d_utils.IMPORT\x93."),
    "memo": lambda canary: zipped(b"\x80\x02Nr\xff\xff\xff\xff."),
    "storage elsewhere": lambda canary: zipped(storage(key="../x"), FOUR),
    "storage too large": lambda canary: zipped(storage(count="4000000000"), FOUR),
    "tensor beyond": lambda canary: zipped(storage(size="(I5\nt"), FOUR),
    "tensor before": lambda canary: zipped(storage(offset="-1"), FOUR),
    "stride back": lambda canary: zipped(storage(stride="(I-1\nt"), FOUR),
    "packed": lambda canary: zipped(storage(), FOUR, method=zipfile.ZIP_DEFLATED),
    "two pickles": lambda canary: zipped(storage(), FOUR, ("b/data.pkl", b".")),
    "no zip": lambda canary: b"PK\3\4" + os.urandom(600),
    "deep": lambda canary: zipped(b"(" * 100_000 + b"t" * 100_000 + b"."),
    "torn": lambda canary: saved({"x": torch.ones(4)})[:-30],
}  # fmt: skip


@pytest.mark.parametrize("name", PICKLES)
def test_weights_that_are_more_than_tensors_are_refused(tmp_path, name):
    canary = tmp_path / "canary"
    source = nemo.archive(tmp_path / "m.nemo", CONFIG, {"model_weights.ckpt": PICKLES[name](canary)})
    with pytest.raises(IntegrityError) as refused:
        import_hf(str(source), str(tmp_path / "out"), say=lambda line: None)
    assert refused.value.code == 11 and refused.value.slug == "bad-weights"
    assert not canary.exists() and not (tmp_path / "out").exists()


def index(canary: Path, change: str) -> dict[str, bytes]:
    """A distributed checkpoint whose index, or a file of it, lies."""
    files = nemo.distributed_files(nemo.weights(CONFIG), "model_weights/", "model.")
    name = "model_weights/.metadata"
    if change == "call":
        files[name] = pickle.dumps(Hostile(canary))
    elif change == "call in a file":
        whole = pickle.loads(files[name])
        hostile = zipped(pickle.dumps(Hostile(canary)))
        for place in whole.storage_data.values():
            place.offset, place.length = 0, len(hostile)
        files[name] = pickle.dumps(whole)
        files |= dict.fromkeys(("model_weights/__0_0.distcp", "model_weights/__1_0.distcp"), hostile)
    else:
        files[name] = files[name].replace(b"__0_0.distcp", b"../../passwd")
    return files


@pytest.mark.parametrize("change", ["call", "call in a file", "a file elsewhere"])
def test_an_index_that_lies_is_refused(tmp_path, change):
    source = nemo.archive(tmp_path / "m.nemo", CONFIG, index(tmp_path / "canary", change))
    with pytest.raises(QuiverError) as refused:
        import_hf(str(source), str(tmp_path / "out"), say=lambda line: None)
    assert refused.value.code in (10, 11) and not (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "says",
    [{"chunks": [1 << 40]}, {"shape": [1 << 40] * 2}, {"compressor": {"id": "blosc"}}, {"dtype": "|O"}, {"chunks": []}],
)  # fmt: skip
def test_a_zarr_folder_that_lies_is_refused(tmp_path, says):
    files = nemo.zarr_files(nemo.weights(CONFIG), "model_weights/")
    name = "model_weights/model.decoder.final_layernorm.weight/.zarray"
    files[name] = json.dumps(json.loads(files[name]) | says).encode()
    with pytest.raises(IntegrityError):
        import_hf(str(nemo.archive(tmp_path / "m.nemo", CONFIG, files)), str(tmp_path / "out"), say=lambda line: None)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.system ['touch canary']", "a: !x 1", "_target_: os.system\nargs: [touch]",
        "hidden_size: ${oc.env:HOME}", "hidden_size: ${multiply:4,4}", "hidden_size: ${.hidden_size}",
        "a: &a [1]\nb: [*a, *a]", "a: 1\na: 2", "a: " + "[" * 10_000, "- 1", "\xff", "a: 1\n---\nb: 2",
        "x: 1\n" * 200_000,
    ],
)  # fmt: skip
def test_settings_that_are_more_than_values_are_refused(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model_config.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(QuiverError) as refused:
        settings_at(str(tmp_path / "m"))
    assert refused.value.code == 10 and not (tmp_path / "canary").exists()


def test_a_pack_that_grows_beyond_measure_is_stopped_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, "_SLACK", 1 << 20)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "tmp").mkdir()
    path = tmp_path / "m.nemo"
    path.write_bytes(gzip.compress(whole(GOOD, member("x", bytes(64 << 20)))))
    for use in (Archive, small_files):
        with pytest.raises(IntegrityError, match="64 times"):
            use(str(path))
    assert os.listdir(tmp_path / "tmp") == []


def test_a_pack_lies_in_a_private_file_while_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = tmp_path / "m.nemo"
    path.write_bytes(gzip.compress(whole(GOOD)))
    with Archive(str(path)) as opened:
        spool = Path(opened.pieces["model_config.yaml"].path)
        assert spool.stat().st_mode & 0o777 == 0o600 and spool.parent.stat().st_mode & 0o777 == 0o700
    assert os.listdir(tmp_path) == ["m.nemo"]


def test_more_members_than_any_model_has(tmp_path, monkeypatch):
    monkeypatch.setattr(tar, "_MOST_MEMBERS", 10)
    path = tmp_path / "m.nemo"
    path.write_bytes(whole(*(member(f"{number}") for number in range(12))))
    with pytest.raises(IntegrityError, match="members"):
        Archive(str(path))


def test_a_folder_of_pipes_is_refused(tmp_path):
    (tmp_path / "model_config.yaml").write_text("a: 1\n")
    os.mkfifo(tmp_path / "model_weights.ckpt")
    with pytest.raises(IntegrityError, match="neither a file nor a folder"):
        settings_at(str(tmp_path))


def test_a_zip_whose_directory_is_huge_costs_no_memory(tmp_path):
    big = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, 1 << 30, 0, 0)
    path = tmp_path / "m.ckpt"
    with path.open("wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 30)
        file.write(big)
    from trainers.engine.checkpoint.torch_file import TorchFile

    with pytest.raises(IntegrityError, match="bytes"):
        TorchFile(archive.Piece(str(path), 0, path.stat().st_size), "m.ckpt")
