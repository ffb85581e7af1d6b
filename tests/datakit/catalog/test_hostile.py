"""A workspace from somebody else: nothing that lies in it but manifests and rows is believed, and these not as SQL."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import pytest

from datakit.catalog import catalog_file
from datakit.catalog.catalog_file import CATALOG, refresh
from datakit.catalog.manifest_cache import CACHE
from datakit.catalog.stacked import View
from datakit.catalog.workspace import read_workspace
from datakit.sql import ask, connect
from schemas import SAMPLES
from schemas.errors import QuiverError
from tests.datakit.catalog.workspaces import REWARDED, Maker, rewarded, samples
from tests.tail import late


def _with_column(value: Any, kind: str) -> Any:
    """`value` with a column of the type `kind` more wherever it lists columns."""
    if isinstance(value, dict):
        return {name: _with_column(one, kind) for name, one in value.items()}
    if not isinstance(value, list):
        return value
    match value:
        case [{"name": _, "type": _}, *_]:
            return [*value, {**value[-1], "name": "zz", "type": kind}]
        case [[str(), str(), str(), str()], *_]:  # format 1 of the cache
            return [*value, ["zz", kind, "", ""]]
    return [_with_column(one, kind) for one in value]


def _handed_on(make: Maker, tmp_path: Path, forge: Callable[[Any], Any]) -> Path:
    """A copy of a workspace whose cache somebody forged: other inodes and times, the same manifests."""
    make("own/samples-00000001", SAMPLES, samples(3), op="generate.complete")
    refresh(read_workspace(str(make.root)))
    cache = make.root / CACHE
    cache.write_text(json.dumps(forge(json.loads(cache.read_text()))))
    return Path(shutil.copytree(make.root, tmp_path / "victim"))


def test_no_text_of_a_forged_cache_is_run(make: Maker, tmp_path: Path) -> None:
    """A type in it ends the statement that it would stand in, and begins one that writes a file."""
    written = tmp_path / "written.csv"
    columns = ", ".join(f'NULL AS "{name}"' for name in SAMPLES.names)
    forged = f"VARCHAR AS x FROM (SELECT {columns}); COPY (SELECT 1) TO '{written}' (FORMAT csv); --"

    def forge(cache: Any) -> Any:
        made = _with_column(cache, forged)
        assert made != cache, "the cache lists no columns"
        made["manifests"]["own/samples-00000001"]["version"] = [0, 0, 0, 0]
        return made

    root = _handed_on(make, tmp_path, forge)
    refresh(read_workspace(str(root)), anew=True)
    assert not written.exists()
    with connect(root) as db:
        assert db.sql("SELECT count(*) FROM samples").fetchall() == [(3,)]
    assert not written.exists()


@pytest.mark.parametrize(
    "sql", ["SELECT 1 AS x; COPY (SELECT 1) TO '{written}' (FORMAT csv)", "SELECT * FROM read_text('/etc/hostname')"]
)
def test_the_connection_that_makes_views_runs_one_statement_and_reads_no_file_outside(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    """Were a text of somebody else's to come into a view after all."""
    written = tmp_path / "written.csv"
    forged = {("main", "samples"): View(sql.format(written=written), "forged", {})}
    monkeypatch.setattr(catalog_file, "views_of", lambda workspace: dict(forged))
    catalog_file.write_catalog(read_workspace(str(make.root)), tmp_path / "own.duckdb")
    assert not written.exists()
    with duckdb.connect(tmp_path / "own.duckdb") as db, pytest.raises(duckdb.Error, match="cannot be made"):
        db.sql("FROM samples").fetchall()


@pytest.mark.parametrize(
    "name", ["../../outside.parquet", "/etc/hostname", *map(late, ["..", "a/../../outside.parquet"])]
)
def test_a_forged_cache_names_no_file_outside(make: Maker, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "outside.parquet"
    duckdb.sql(f"COPY (SELECT 42 AS sample_id) TO '{secret}'")

    def forge(cache: Any) -> Any:
        for one in cache["manifests"].values():
            one["files"] = [[name, 3, secret.stat().st_size]]
            one["version"] = [0, 0, 0, 0]
        return cache

    root = _handed_on(make, tmp_path, forge)
    [batch] = ask(root, "SELECT sample_id FROM samples ORDER BY 1")
    assert batch["sample_id"].to_pylist() == ["s0", "s1", "s2"]
    assert read_workspace(str(root)).entries[0].made.files[0][0].startswith("part-")


def test_a_catalog_that_somebody_else_made_is_never_opened(make: Maker, tmp_path: Path) -> None:
    """Also where he knew the inode and the times of it, and wrote them wherever a workspace could hold them."""
    make("own/samples-00000001", SAMPLES, samples(3), op="generate.complete")
    workspace = read_workspace(str(make.root))
    refresh(workspace)
    catalog = make.root / CATALOG
    before = catalog.stat()
    with duckdb.connect(catalog) as db:
        db.execute("CREATE OR REPLACE VIEW samples AS SELECT 'forged' AS sample_id")
    os.utime(catalog, ns=(before.st_atime_ns, before.st_mtime_ns))
    there = catalog.lstat()
    state = [there.st_ino, there.st_mtime_ns, there.st_size, f"1 {version('duckdb')} {workspace.views_digest}"]
    (make.root / ".catalog-state.json").write_text(json.dumps(state))
    with connect(make.root) as db:
        assert db.sql("SELECT sample_id FROM samples ORDER BY 1").fetchall() == [("s0",), ("s1",), ("s2",)]


def test_files_behind_a_link_to_a_folder_are_damage(make: Maker, tmp_path: Path) -> None:
    dataset = make("own/samples-00000001", SAMPLES, samples(3), op="generate.complete")
    folder, outside = make.root / "own/samples-00000001", tmp_path / "outside"
    [shard] = folder.glob("part-*.parquet")
    (outside / "b").mkdir(parents=True)
    shard.rename(outside / "b" / "part.parquet")
    (folder / "a").symlink_to(outside)
    manifest = dataset.manifest
    forged = replace(manifest, files=tuple(replace(one, path="a/b/part.parquet") for one in manifest.files))
    (folder / "_manifest.json").write_bytes(forged.to_bytes())
    with pytest.raises(QuiverError, match="behind a link"):
        list(ask(make.root, "FROM samples"))


JUNK = (None, 3, "x", [1], [{}], [{"name": [1]}], {"name": "label.reward"}, [[["label.reward"]]])


def test_a_chain_that_is_none_takes_no_view_away(make: Maker) -> None:
    """What a manifest below a run says of its operations may be anything."""
    rows = rewarded(samples(2), [0.0, 1.0])
    for number, ops in enumerate((*JUNK, [{"name": "label.reward"}])):
        place = f"ppo/x/policy-00000001.run/rollouts/step={number}-{number:08x}.answers"
        make(place, REWARDED, rows, op="paid.chain", params={"ops": ops})
    [counted] = [batch.to_pylist() for batch in ask(make.root, "SELECT count(*) AS n, min(step) AS s FROM rewards")]
    assert counted == [{"n": 2, "s": len(JUNK)}]
