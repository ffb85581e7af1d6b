"""Any dataset of a workspace as a table of a query: `quiver sql 'FROM "mine/kept"'`.

Views of all datasets would open every one of them. So those alone are made that a query names, as it does, between
quotes behind FROM, JOIN or a comma, and in the catalog of that query alone; or those that somebody asks for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress

from datakit.catalog.catalog_file import Name, add_views
from datakit.catalog.last_run import last_run
from datakit.catalog.lineage import Lineage
from datakit.catalog.named import named, newest
from datakit.catalog.sql_text import name
from datakit.catalog.stacked import Part, View, fields_of, stacked
from datakit.catalog.workspace import Entry, Workspace
from schemas.errors import ConfigError, printable

_TABLE = re.compile(
    r"""(?:\b(?:FROM|JOIN|DESCRIBE|SUMMARIZE)|,)\s*(?P<quote>["'])(?P<word>[^"']+)(?P=quote)""", re.IGNORECASE
)


def add_datasets(catalog: str, workspace: Workspace, query: str) -> None:
    """Put a view of every dataset that `query` names into the file `catalog`, which has the others."""
    views = named_in(workspace, query)
    if views:
        add_views(catalog, workspace.root, views)


def named_in(workspace: Workspace, query: str) -> Mapping[Name, View]:
    """The views of the datasets that `query` names; `ConfigError` where SQL takes the names of two for one."""
    words = dict.fromkeys(match["word"] for match in _TABLE.finditer(query))
    return _views(workspace, [*words], _of_query) if words else {}


def views_of_datasets(workspace: Workspace, words: Sequence[str]) -> Mapping[Name, View]:
    """The views of the datasets that `words` name, or that lie in folders which they name; `ConfigError` for a word
    that stands for no dataset, and where SQL takes the names of two for one.
    """
    return _views(workspace, words, _asked_for)


def _of_query(lineage: Lineage, word: str, last: Collection[str]) -> Iterator[tuple[str, Entry]]:
    """The dataset that `word` names; none for a name that the query itself gives, or one that it is refused for."""
    with suppress(ConfigError):
        meant = named(lineage, word, last)
        yield from ((word, entry) for entry in meant.entries if meant.kind == "dataset")


def _asked_for(lineage: Lineage, word: str, last: Collection[str]) -> Iterator[tuple[str, Entry]]:
    meant = named(lineage, word, last)
    datasets = [one for one in meant.entries if one.made.kind == "dataset"]
    if not datasets:
        raise ConfigError(
            "unknown-name", f"no dataset is called {printable(word, 200)}",
            expected="the name of a dataset, or of a folder that holds some", found="checkpoints",
            kept="nothing was read", next="quiver ls", wrong=(word,),
        )  # fmt: skip
    if meant.kind == "dataset":
        yield word, datasets[0]
        return
    for called in dict.fromkeys(one.name for one in datasets):
        yield called, newest([one for one in datasets if one.name == called], last)


def _views(
    workspace: Workspace,
    words: Sequence[str],
    meant: Callable[[Lineage, str, Collection[str]], Iterator[tuple[str, Entry]]],
) -> Mapping[Name, View]:
    """A view of each dataset that the `words` stand for, by what `meant` calls it."""
    lineage = Lineage(workspace.entries)
    last = last_run(lineage)
    there: dict[str, Entry] = {}
    for word in words:
        for called, entry in meant(lineage, word, last):
            if there.setdefault(called.lower(), entry) != entry:
                raise ConfigError(
                    "query", f"{printable(called, 200)} is the name of two datasets, because SQL has one case",
                    expected="the place of one of them", kept="nothing was started", next="quiver ls --all",
                    wrong=(called,),
                )  # fmt: skip
    return {("main", called): _view(lineage, entry) for called, entry in there.items()}


def _view(lineage: Lineage, entry: Entry) -> View:
    """The rows of one dataset, with its own columns alone."""
    files = tuple(f"{entry.root}/{entry.place}/{file}" for file, *_ in entry.made.files)
    fields, columns = fields_of(entry.made.columns), entry.made.columns
    whole = stacked((), [Part(entry, files, fields, lineage.labels(entry))], f"the rows of {entry.place}")
    chosen = ", ".join(f"{name(one.name)} AS {name(column.name)}" for one, column in zip(fields, columns, strict=True))
    meanings = {column.name: column.meaning for column in columns}
    kinds = {one.name: one.kind for one in columns}
    return View(f"SELECT {chosen} FROM ({whole.sql})", whole.meaning, meanings, kinds, whole.reads)
