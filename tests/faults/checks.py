"""The five checks that every data fault must pass, whatever was done to the run.

(a) a reader sees the complete version or nothing; (b) after a rerun the digest is that of an undisturbed run;
(c) the same ids, none lost, none twice; (d) the exit code and a first line in the house's form, no traceback;
(e) nothing temporary is left after the rerun.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection
from dataclasses import dataclass

from schemas.dataset import Dataset
from schemas.store.commit import sweep
from tests.faults.forked import Ended

_FIRST_LINE = re.compile(r"error\[\d+/[a-z-]+\]: .+")


@dataclass(frozen=True)
class Undisturbed:
    """What a run without faults leaves: digest, sorted ids, and every file's relative path."""

    digest: str
    ids: tuple[str, ...]
    files: frozenset[str]

    @staticmethod
    def of(dataset: Dataset, column: str) -> Undisturbed:
        return Undisturbed(dataset.content_digest, _ids(dataset, column), files_below(dataset.url))


def five_checks(
    url: str,
    ended: Ended,
    rerun: Callable[[], object],
    wanted: Undisturbed,
    *,
    column: str,
    codes: Collection[int],
) -> None:
    """Assert the five checks for one disturbed run that `ended`; `rerun` runs the same job again without
    faults.
    """
    assert ended.code in codes, f"exit {ended.code}: {ended.line}"  # (d)
    if ended.code > 0:
        assert _FIRST_LINE.fullmatch(ended.line), ended.line
    if Dataset.exists(url):  # (a)
        check_whole(url, wanted, column)
        sweep(url)
    else:
        assert ended.code != 0, "the run said it succeeded and nothing is there"
        rerun()
    check_whole(url, wanted, column)  # (b), (c)
    assert files_below(url) == wanted.files, f"left: {sorted(files_below(url) ^ wanted.files)}"  # (e)


def check_whole(url: str, wanted: Undisturbed, column: str) -> None:
    """The dataset at `url` reads completely and is the undisturbed one."""
    dataset = Dataset.open(url)
    dataset.check()
    assert dataset.content_digest == wanted.digest
    assert _ids(dataset, column) == wanted.ids


def files_below(url: str) -> frozenset[str]:
    """Relative paths of all files and folders below a local folder."""
    return frozenset(
        os.path.relpath(os.path.join(root, name), url)
        for root, folders, files in os.walk(url)
        for name in (*folders, *files)
    )


def _ids(dataset: Dataset, column: str) -> tuple[str, ...]:
    return tuple(sorted(dataset.read([column])[column].to_pylist()))
