"""Any dataset of a workspace as a table of a query: `quiver sql 'FROM "mine/kept"'`.

Views of all datasets would open every one of them. So those alone are made that a query names, as it does, between
quotes behind FROM, JOIN or a comma, and in the catalog of that query alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from datakit.catalog.catalog_file import Name, add_views
from datakit.catalog.last_run import last_run
from datakit.catalog.lineage import Lineage
from datakit.catalog.named import named
from datakit.catalog.sql_text import name
from datakit.catalog.stacked import Part, View, fields_of, stacked
from datakit.catalog.workspace import Entry, Workspace, read_workspace
from schemas.errors import ConfigError, printable

_TABLE = re.compile(
    r"""(?:\b(?:FROM|JOIN|DESCRIBE|SUMMARIZE)|,)\s*(?P<quote>["'])(?P<word>[^"']+)(?P=quote)""", re.IGNORECASE
)


def add_datasets(catalog: str, root: str, query: str) -> None:
    """Put a view of every dataset below `root` that `query` names into the file `catalog`, which has the others."""
    words = dict.fromkeys(match["word"] for match in _TABLE.finditer(query))
    if words:
        workspace = read_workspace(root)
        add_views(catalog, workspace.root, _views(workspace, [*words]))


def _views(workspace: Workspace, words: list[str]) -> Mapping[Name, View]:
    """The views of those `words` that name datasets; `ConfigError` where SQL takes the names of two for one."""
    lineage = Lineage(workspace.entries)
    last = last_run(lineage)
    there: dict[str, Entry] = {}
    for word in words:
        try:
            meant = named(lineage, word, last)
        except ConfigError:
            continue  # a name that the query itself gives, or one that it is refused for
        [entry] = meant.entries if meant.kind == "dataset" else [None]
        if entry is not None and there.setdefault(word.lower(), entry) != entry:
            raise ConfigError(
                "query", f"{printable(word, 200)} is the name of two datasets, because SQL has one case",
                expected="the place of one of them", kept="nothing was started", next="quiver ls --all", wrong=(word,),
            )  # fmt: skip
    return {("main", word): _view(lineage, entry) for word, entry in there.items()}


def _view(lineage: Lineage, entry: Entry) -> View:
    """The rows of one dataset, with its own columns alone."""
    files = tuple(f"{entry.root}/{entry.place}/{file}" for file, *_ in entry.made.files)
    fields, columns = fields_of(entry.made.columns), entry.made.columns
    whole = stacked((), [Part(entry, files, fields, lineage.labels(entry))], f"the rows of {entry.place}")
    chosen = ", ".join(f"{name(one.name)} AS {name(column.name)}" for one, column in zip(fields, columns, strict=True))
    meanings = {column.name: column.meaning for column in columns}
    return View(f"SELECT {chosen} FROM ({whole.sql})", whole.meaning, meanings, {one.name: one.kind for one in columns})
