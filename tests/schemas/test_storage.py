"""Which places may be opened, which names may be used, and what messages may say about them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from schemas.dataset import Attempt, Dataset
from schemas.errors import ConfigError, ConflictError, IntegrityError, QuiverError, StorageError
from schemas.store.local import LocalStore
from schemas.store.opening import open_store
from schemas.store.owner import Owner
from schemas.store.storage import guarded, inside, normal, shown
from tests.faults.writers import ROWS

REFUSED = [
    ("http://169.254.169.254/latest/meta-data", "protocol"),
    ("https://example.com/d", "protocol"),
    ("ftp://h/d", "protocol"),
    ("gs://b/d", "protocol"),
    ("data:text/plain,hello", "protocol"),
    ("simplecache::file:///etc/passwd", "chained-url"),
    ("file:///a::http://127.0.0.1/x", "protocol"),
    ("zip://x::http://127.0.0.1/x", "protocol"),
    ("filecache::s3://b/d", "chained-url"),
    ("reference::/etc/hosts", "chained-url"),
    ("memory://a::s3://b/d", "chained-url"),
    ("s3://key:secret@bucket/d", "credentials-in-url"),
    ("memory://a/../b", "url"),
    ("s3://", "url"),
    ("s3://b//d", "url"),
    ("", "url"),
    ("/tmp/a\nb", "url"),
    ("/tmp/a\0b", "url"),
    ("GITHUB://org:repo@/x", "protocol"),
    ("local://etc/passwd", "protocol"),
    ("dir::file:///etc", "chained-url"),
]


@pytest.mark.parametrize(("url", "slug"), REFUSED)
def test_places_that_are_refused(url: str, slug: str) -> None:
    for call in (normal, open_store, Dataset.exists, Dataset.open, lambda place: Attempt.begin(place, ROWS)):
        with pytest.raises(ConfigError) as caught:
            call(url)
        assert caught.value.slug == slug
        assert caught.value.code == 2
        assert "secret" not in caught.value.render()
        assert "\n" not in caught.value.what


def test_one_place_has_one_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    here = os.path.realpath(tmp_path)
    assert {normal(text) for text in ("d", "./d", "d/", f"file://{here}/d", f"{here}/x/../d")} == {f"{here}/d"}
    assert normal(Path("d")) == f"{here}/d"
    assert normal("S3://b/d/") == normal("s3://b/d") == "s3://b/d"


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a/../../x", "a//b", "", ".", "..", "a/.", "a\\b", "a\0b", "a b", "é", "~", "-rf",
     "a/" * 9 + "b", "x" * 300, "s3://b/x", "a::b", None, 3],
)  # fmt: skip
def test_names_that_leave_their_folder_are_refused(name: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        inside(name, "d")
    assert caught.value.slug == "hostile-name"


@pytest.mark.parametrize(
    "name", ["part-00000.parquet", "rejected/part-00001.parquet", "weights/.metadata", "__0_0.distcp"]
)
def test_plain_names_are_fine(name: str) -> None:
    assert inside(name, "d") == name


def test_messages_hold_no_credentials_and_no_control_characters() -> None:
    assert shown("http://user:a/b+c=@127.0.0.1:1/v1#m") == "http://127.0.0.1:1/v1#m"
    for address in ("http://h:8000/v1#m@2", "s3://bucket/rows@v2/x", "http://h:80,key=K"):
        assert shown(address) == address
    text = shown("s3://key:secret@b/d?X-Amz-Signature=abc and https://u:p@h/x?token=1 \x1b[2J\u202e")
    for secret in ("secret", "abc", "token", "u:p", "\x1b", "\u202e"):
        assert secret not in text
    assert "s3://b/d" in text


@pytest.mark.parametrize(
    ("number", "slug"),
    [
        (errno.ENOSPC, "no-space"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "denied"),
        (errno.EMFILE, "too-many-files"),
        (errno.EIO, "io"),
        (errno.EFBIG, "file-limit"),
    ],
)
def test_errnos_become_storage_errors_that_name_them(number: int, slug: str) -> None:
    with pytest.raises(OSError, match=errno.errorcode[number]) as caught, guarded("write", "/d/x"):
        raise OSError(number, os.strerror(number))
    error = caught.value
    assert isinstance(error, QuiverError)
    assert (error.code, error.slug, error.errno) == (12, slug, number)
    assert "/d/x" in error.what


def test_a_folder_that_is_held_is_waited_for_then_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("schemas.store.local.WAIT_SECONDS", 0.1)
    store = LocalStore()
    with store.exclusive(str(tmp_path)), pytest.raises(ConflictError), store.exclusive(str(tmp_path)):
        pass
    with store.exclusive(str(tmp_path)):
        pass


def test_a_file_system_without_hard_links_is_refused_before_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def link(*_: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("schemas.store.local.os.link", link)
    with pytest.raises(ConfigError) as caught:
        Attempt.begin(str(tmp_path / "d"), ROWS)
    assert caught.value.slug == "store-lacks-put-if-absent"
    assert not (tmp_path / "d").exists()


def test_a_name_that_is_too_long_is_reported(tmp_path: Path) -> None:
    with pytest.raises(QuiverError) as caught:
        Attempt.begin(str(tmp_path / ("x" * 256)), ROWS)
    assert (caught.value.code, caught.value.slug) == (12, "name-too-long")


def test_owners_are_told_apart() -> None:
    mine = Owner.mine()
    assert Owner.from_bytes(mine.to_bytes()) == mine
    assert mine.dead() is False
    assert mine.is_this_process()
    for data in (b"", b"{}", b"[]", b"null", b'{"pid": "x"}', b"\xff", b"[" * 5000):
        assert Owner.from_bytes(data) is None


def test_a_folder_below_a_link_to_nowhere_is_refused_and_one_that_goes_meanwhile_is_made_again(tmp_path: Path) -> None:
    store, folder = LocalStore(), str(tmp_path / "a/b")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    with pytest.raises(StorageError, match="not-there"):
        store.make_folder(str(tmp_path / "nowhere/b"))
    with store.exclusive(folder):
        assert os.path.isdir(folder)
        store.remove_empty(folder)
    with store.exclusive(folder):
        assert os.listdir(tmp_path / "a") == ["b"]
