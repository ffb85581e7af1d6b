"""The views of a workspace on a connection of the caller's own: `datakit.sql.connect("quiver-data")`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from datakit.catalog.catalog_file import current_catalog
from datakit.catalog.sql_text import literal
from datakit.duck.session import WHOLE_ROWS
from schemas.store.scratch import Scratch

if TYPE_CHECKING:
    import duckdb

_NAME = "workspace"


def connect(root: str | os.PathLike[str] = "quiver-data") -> duckdb.DuckDBPyConnection:
    """A connection whose `.sql(...)` answers over what lies below `root` now, in the views of `catalog.duckdb`.

    It is opened read-only, from a copy that nobody else can lock or change; temporary tables of one's own are possible.
    The SQL is that of the caller's process: nothing bounds it. `ConfigError` for a root that is no local folder.
    """
    import duckdb

    connection = duckdb.connect(config=dict(WHOLE_ROWS))
    with Scratch("quiver-catalog-") as folder:
        place = current_catalog(os.fspath(root), folder)
        connection.execute(f"ATTACH {literal(place)} AS {_NAME} (READ_ONLY)")
    connection.execute(f"USE {_NAME}")
    return connection
