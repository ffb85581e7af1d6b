"""The views of a workspace on a connection of the caller's own: `datakit.sql.connect("quiver-data")`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from datakit.catalog.catalog_file import CATALOG, add_views, current_catalog, write_catalog
from datakit.catalog.dataset_views import views_of_datasets
from datakit.catalog.intact import with_changed_files
from datakit.catalog.sql_text import literal
from datakit.catalog.workspace import read_workspace
from datakit.duck.session import WHOLE_ROWS
from schemas.store.scratch import Scratch

if TYPE_CHECKING:
    import duckdb

_NAME = "workspace"


def connect(
    root: str | os.PathLike[str] = "quiver-data", *datasets: str, verify: Literal["full", "size"] = "size"
) -> duckdb.DuckDBPyConnection:
    """A connection whose `.sql(...)` answers over what lies below `root` now, in the views of `catalog.duckdb`, and in
    one of each of the `datasets`: names of `quiver ls`, or folders of them, between quotes as in `quiver sql`.

    It is opened read-only, from a copy that nobody else can lock or change; temporary tables of one's own are possible.
    The SQL is that of the caller's process: nothing bounds it. A file of another size than its manifest says fails
    every query that reaches its dataset; with `verify` "full", which reads all files first, so does another SHA-256.
    `ConfigError` for a root that is no local folder, and for datasets that are not there.
    """
    import duckdb

    assert verify in ("full", "size"), verify
    with Scratch("quiver-catalog-") as folder:
        workspace = read_workspace(os.fspath(root))
        if verify == "full":
            workspace, place = with_changed_files(workspace), os.path.join(folder, CATALOG)
            write_catalog(workspace, Path(place))
        else:
            place = current_catalog(workspace, folder)
        if datasets:
            add_views(place, workspace.root, views_of_datasets(workspace, datasets))
        connection = duckdb.connect(config=dict(WHOLE_ROWS))
        connection.execute(f"ATTACH {literal(place)} AS {_NAME} (READ_ONLY)")
    connection.execute(f"USE {_NAME}")
    return connection
