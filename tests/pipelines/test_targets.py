"""What counts as done: a whole manifest with the right key, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from datakit.apply import apply
from pipelines.graph.plan import Plan
from pipelines.runtime.targets import NodeTarget
from schemas.errors import ConflictError, IntegrityError
from tests.pipelines.toy import Count


def made(folder: Path, *, key: str | None = None) -> NodeTarget:
    node = Plan(str(folder)).table("toy/counted", Count(rows=3))
    apply(node.op, [], node.url, task_key=node.task_key if key is None else key, processes=1)
    return NodeTarget(node)


def test_a_target_exists_once_its_dataset_is_published(tmp_path: Path) -> None:
    node = Plan(str(tmp_path)).table("toy/counted", Count(rows=3))
    Path(node.url).mkdir(parents=True)
    assert not NodeTarget(node).exists() and str(NodeTarget(node)) == node.url
    Path(node.url).rmdir()
    assert made(tmp_path).exists()


def test_what_another_task_made_is_not_taken_for_it(tmp_path: Path) -> None:
    target = made(tmp_path, key="ab" * 32)
    with pytest.raises(ConflictError, match="already holds a dataset of another run") as fault:
        target.exists()
    assert fault.value.found == f"dataset, key {'ab' * 6}" and fault.value.where == target.node.url


def test_a_torn_manifest_is_no_result(tmp_path: Path) -> None:
    target = made(tmp_path)
    manifest = Path(target.node.url, "_manifest.json")
    manifest.write_bytes(manifest.read_bytes().replace(b'"rows"', b'"rowz"', 1))
    with pytest.raises(IntegrityError):
        target.exists()
