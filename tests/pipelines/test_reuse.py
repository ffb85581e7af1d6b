"""What is there under another label is not made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import leftovers, luigi

from pipelines.graph.plan import Plan
from pipelines.runtime import reuse
from schemas import Dataset
from schemas.store.commit import read_manifest
from tests.pipelines.toy import Count


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir() if path.name != "_manifest.json"}


def test_an_import_under_a_second_name_computes_nothing(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {n}.", "response": f"{n}"} for n in range(50)] + [{"prompt": "no answer"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("a/rows", "b/rows"):
        more = ("--files", "rows.jsonl", "--quiver-max-rejected", "0.5")
        done = luigi(tmp_path, "Import", "--name", name, *more, module="pipelines")
        assert done.returncode == 0, done.stderr
        assert ("is the same: nothing was computed" in done.stderr) is (name == "b/rows")
    [first], [second] = ((tmp_path / "quiver-data" / name).glob("rows-*") for name in "ab")
    assert files(first / "rejected") == files(second / "rejected") and len(files(first / "rejected")) == 1
    one, other = (read_manifest(str(place)) for place in (first, second))
    assert one is not None and other is not None and one.to_bytes() == other.to_bytes()
    assert not leftovers(tmp_path)
    for path in first.rglob("*.parquet"):
        path.unlink()
    assert Dataset.open(str(second), verify="full").read().num_rows == 50


def made(folder: Path, label: str, rows: int) -> tuple[Plan, str]:
    from datakit.apply import apply

    plan = Plan(str(folder))
    node = plan.table(label, Count(rows=rows))
    apply(node.op, [], node.url, task_key=node.task_key)
    return plan, node.url


@pytest.mark.parametrize("spoil", ["byte", "manifest", "key"])
def test_a_result_that_is_not_whole_is_made_again(tmp_path: Path, spoil: str) -> None:
    plan, url = made(tmp_path, "one", 5)
    node = plan.table("two", Count(rows=6 if spoil == "key" else 5))
    if spoil == "byte":
        [shard] = Path(url).glob("*.parquet")
        data = bytearray(shard.read_bytes())
        data[len(data) // 2] ^= 1
        shard.write_bytes(data)
    if spoil == "manifest":
        (Path(url) / "_manifest.json").unlink()
    if spoil == "key":
        Path(url).rename(tmp_path / f"one-{node.task_key[:8]}")
    assert reuse.linked(node) == "" and not Path(node.url).exists()


def test_where_files_can_have_no_second_name_it_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, url = made(tmp_path, "one", 5)
    node = plan.table("two", Count(rows=5))

    def no_links(*_: object) -> None:
        raise PermissionError(1, "no links here")

    with monkeypatch.context() as patched:
        patched.setattr(reuse.os, "link", no_links)
        assert reuse.linked(node) == "" and not Path(node.url).exists()
    assert reuse.linked(node) == url and node.manifest() is not None
    remote = Plan("memory://somewhere").table("two", Count(rows=5))
    assert reuse.linked(remote) == ""
