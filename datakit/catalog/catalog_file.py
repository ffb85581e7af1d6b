"""`catalog.duckdb`: the views of a workspace in a file of DuckDB's, beside the data and without any of it.

The plain program opens it: `duckdb quiver-data/catalog.duckdb`. Views name files by their absolute paths, so that they
answer from any folder; a workspace that was moved has them made again. The file is made aside and renamed, and nobody
needs it: who finds it older than the manifests makes it again, or one of his own where it cannot be written. One that
somebody else made is never opened: what this user made last is noted in a folder of his own, not in the workspace.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from datakit.catalog.fact_views import Columns, fact_views, listed
from datakit.catalog.forensics import FORENSICS, forensic_views, of_main
from datakit.catalog.last_run import last_run
from datakit.catalog.lineage import Lineage
from datakit.catalog.rollout_view import ROLLOUT, rollout_rows
from datakit.catalog.rollouts import of_last_runs, rollouts_of
from datakit.catalog.row_views import Chosen, row_views
from datakit.catalog.sql_text import literal, name
from datakit.catalog.stacked import View
from datakit.catalog.workspace import GONE, Workspace
from datakit.duck.session import CONFIG
from schemas.errors import DataError, QuiverError, StorageError, printable
from schemas.store.ownfiles import own_folder, replace_file
from schemas.store.storage import guarded

CATALOG = "catalog.duckdb"
EVERYTHING = "everything"
"""The schema of views that show every variant. Their columns mean the same; what they mean stands with the others."""

_FORMAT = 9
"""Rises when the views become others over the same manifests."""

_LEFT_SECONDS = 86400

Name = tuple[str, str]
"""Schema and name of a view."""

_COLUMNS: Columns = {
    "view": ("VARCHAR", "the view"),
    "column": ("VARCHAR", "its column"),
    "meaning": ("VARCHAR", "what that is"),
}


def views_of(workspace: Workspace) -> dict[Name, View]:
    """Every view by schema and name: in `main` the last run of each recipe and experiment, in `everything` all, in
    `forensics` what is asked of those in `main`.
    """
    lineage = Lineage(workspace.entries)
    last = last_run(lineage)
    rollouts = rollouts_of([*workspace.rollouts, *workspace.dropped])
    views: dict[Name, View] = {}
    for schema in (EVERYTHING, "main"):
        entries = [one for one in workspace.entries if schema == EVERYTHING or one.place in last]
        own = rollouts if schema == EVERYTHING else of_last_runs(rollouts, workspace.entries, last)
        drawn = [one for one in own if one.entry.damage != GONE]
        made = row_views(Chosen(entries, lineage, drawn)) | fact_views(entries, lineage, last)
        made["rollouts"] = listed(ROLLOUT, [*rollout_rows(own)], "datasets of steps of online runs, one a row")
        asked = forensic_views(made) if schema == "main" else {}
        described = made | {f"{FORENSICS}.{view}": one for view, one in asked.items()}
        rows = [
            {"view": view, "column": column, "meaning": meaning}
            for view, one in sorted(described.items())
            for column, meaning in one.columns.items()
        ]
        made["columns"] = listed(_COLUMNS, rows, "columns of views and what they mean, one a row")
        views |= {(schema, view): one for view, one in made.items()}
        views |= {(FORENSICS, view): one for view, one in asked.items()}
    return views


def current_catalog(workspace: Workspace, folder: str) -> str:
    """The place of a catalog in `folder`, the caller's own, that shows `workspace`. That of the root is made again
    where it shows something else; one that cannot be written there is no fault.
    """
    own, shared = Path(folder, CATALOG), Path(workspace.root, CATALOG)
    with suppress(QuiverError, OSError):
        refresh(workspace)
        shutil.copyfile(shared, own)
        return str(own)
    write_catalog(workspace, own)
    return str(own)


def refresh(workspace: Workspace, *, anew: bool = False) -> bool:
    """Make the catalog of the root again, if it shows something else than `workspace`, or `anew`; whether it was."""
    path, views_digest = Path(workspace.root, CATALOG), f"{_FORMAT} {version('duckdb')} {workspace.views_digest}"
    if not anew and _state(path, views_digest) == _kept_state(workspace.root):
        return False
    write_catalog(workspace, path)
    with suppress(QuiverError, OSError):  # not noted, it is made again next time
        state = _state_file(workspace.root)
        own_folder(state.parent)
        replace_file(state, json.dumps(_state(path, views_digest)))
    return True


def write_catalog(workspace: Workspace, path: Path) -> None:
    """Make the views of `workspace` the content of the file `path`, whole or not at all."""
    import duckdb

    views = views_of(workspace)
    _sweep(path)
    fresh = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    try:
        with guarded("write", str(path)):
            for _ in range(len(views) + 1):
                with duckdb.connect(fresh, config={"threads": 1, **CONFIG}) as db:
                    _lock(db, workspace.root)
                    faulty = _faulty(db, views)
                if faulty is None:
                    os.replace(fresh, path)
                    return
                views |= {view: _fault(view, faulty[1]) for view in _concerned(views, faulty[0])}
    except duckdb.Error as error:
        raise StorageError(
            "catalog", f"the catalog cannot be written: {printable(error, 200)}", where=str(path)
        ) from None
    finally:
        for left in (fresh, fresh.with_name(f"{fresh.name}.wal")):
            with suppress(OSError):
                left.unlink()


def _concerned(views: Mapping[Name, View], faulty: Name) -> list[Name]:
    """The view that cannot be made and, of a plain name, those that are asked of it."""
    schema, view = faulty
    over = [name for name, one in views.items() if name[0] == FORENSICS and of_main(view).search(one.sql)]
    return [faulty, *(over if schema == "main" else ())]


def add_views(path: str, root: str, views: Mapping[Name, View]) -> None:
    """Put `views` over files below `root` into the catalog `path`; one that cannot be made says why, when asked."""
    import duckdb

    with duckdb.connect(path, config={"threads": 1, **CONFIG}) as db:
        _lock(db, root)
        for view, made in views.items():
            db.execute("BEGIN")
            try:
                for statement in _statements(view, made):
                    _execute(db, statement)
                for _, fault in _other_types(db, {view: made}):
                    raise fault
            except (duckdb.Error, DataError) as error:
                db.execute("ROLLBACK")
                db.execute("BEGIN")
                for statement in _statements(view, _fault(view, error)):
                    _execute(db, statement)
            db.execute("COMMIT")


def _lock(db: Any, root: str) -> None:
    """Let `db` read files below `root` alone."""
    db.execute(f"SET allowed_directories = [{literal(f'{root}/')}]")
    db.execute("SET enable_external_access = false")
    db.execute("SET lock_configuration = true")


def _sweep(path: Path) -> None:
    """Remove what a process left that was killed while it made a catalog, a day ago or longer."""
    for left in path.parent.glob(f".{path.name}.*"):
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime > _LEFT_SECONDS:
                left.unlink()


def _faulty(db: Any, views: Mapping[Name, View]) -> tuple[Name, Exception] | None:
    """Make all `views` in an empty database, or none; the first that cannot be made."""
    db.execute("BEGIN")
    for schema in (EVERYTHING, FORENSICS):
        db.execute(f"CREATE SCHEMA {schema}")
    faults = chain(
        _not_made(db, views, (EVERYTHING, "main")), _other_types(db, views), _not_made(db, views, (FORENSICS,))
    )
    fault = next(faults, None)
    db.execute("COMMIT" if fault is None else "ROLLBACK")
    return fault


def _not_made(db: Any, views: Mapping[Name, View], schemas: Collection[str]) -> Iterator[tuple[Name, Exception]]:
    """Make the views of `schemas`; those that cannot be."""
    import duckdb

    for view, made in views.items():
        try:
            for statement in _statements(view, made) if view[0] in schemas else ():
                _execute(db, statement)
        except (duckdb.Error, DataError) as error:
            yield view, error


def _execute(db: Any, text: str) -> None:
    """Run `text`, which is one statement: names and values in it come from manifests."""
    statements = db.extract_statements(text)
    if len(statements) != 1:
        raise DataError("schema", "its names or types do not make one statement")
    db.execute(statements[0])


def _other_types(db: Any, views: Mapping[Name, View]) -> Iterator[tuple[Name, Exception]]:
    """Views whose files hold other types than the manifests say. Structs are left to DuckDB, which spells them so."""
    listed = "SELECT schema_name, table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal"
    for schema, view, column, kind in db.execute(listed).fetchall():
        promised = views[schema, view].kinds.get(column, kind) if (schema, view) in views else kind
        if kind != promised and "STRUCT" not in promised:
            yield (schema, view), DataError("schema", f"{column} is {kind} in a file, {promised} in its manifest")


def _fault(view: Name, error: Exception) -> View:
    """A view that says to everybody who asks it why it cannot be made."""
    reason = error.what if isinstance(error, QuiverError) else printable(error, 400)
    text = f"the view {view[1]} cannot be made: {reason}"
    return View(f"SELECT NULL::VARCHAR AS fault WHERE error({literal(text)}) IS NULL", text, {})


def _statements(view: Name, made: View) -> Iterator[str]:
    called = ".".join(map(name, view))
    yield f"CREATE VIEW {called} AS\n{made.sql}"
    yield f"COMMENT ON VIEW {called} IS {literal(made.meaning)}"
    for column, meaning in made.columns.items() if view[0] != EVERYTHING else ():
        if meaning:
            yield f"COMMENT ON COLUMN {called}.{name(column)} IS {literal(meaning)}"


def _state(path: Path, views_digest: str) -> list[Any]:
    """What a catalog is known by, and what it shows; of none there is, nothing."""
    try:
        there = path.lstat()
    except OSError:
        return []
    return [there.st_dev, there.st_ino, there.st_ctime_ns, there.st_mtime_ns, there.st_size, views_digest]


def _state_file(root: str) -> Path:
    """Where this user notes what he made last below `root`: beside no data, so that nobody hands it on with them."""
    folder = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(folder, "quiver", f"catalog-{hashlib.sha256(os.fsencode(root)).hexdigest()[:32]}.json")


def _kept_state(root: str) -> Any:
    try:
        return json.loads(_state_file(root).read_bytes())
    except (OSError, ValueError):
        return None
