"""`quiver lineage [NAME]`: what a result was made of, back to what was read, a line each; or as OpenLineage events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from datakit.catalog.last_run import last_run
from datakit.catalog.lineage import Lineage
from datakit.catalog.named import named
from datakit.catalog.workspace import read_workspace
from quiver import plain_places
from quiver.command import Command
from quiver.workspace_root import root_of
from schemas.errors import printable
from schemas.process import terminal


def lineage(command: Command, arguments: Sequence[str]) -> Iterable[str]:
    """The result of that name, or all of the last runs, each behind what it was made of."""
    words, options = command.parsed(arguments)
    command.at_most(1, words)
    workspace = read_workspace(root_of(options))
    graph = Lineage(workspace.entries)
    targets = last_run(graph)
    if words:
        targets = frozenset(one.place for one in named(graph, words[0], targets).entries)
    chosen = [index for index, one in enumerate(graph.entries) if one.place in targets]
    ordered = graph.ordered(graph.with_above(chosen))
    if "openlineage" in options:
        from datakit.catalog.open_lineage import events

        return events(graph, ordered)
    return _lines(graph, ordered)


def _lines(graph: Lineage, ordered: Sequence[int]) -> Iterator[str]:
    """A line for each entry of these indices: its number, name, operation and rows, and the numbers of what it was made
    of.
    """
    if not ordered:
        yield "nothing is there yet"
        yield from ("", plain_places.to_do("quiver --help"))
        return
    number = {index: at for at, index in enumerate(ordered, 1)}
    lines = []
    for index, at in number.items():
        one, above = graph.entries[index], sorted({number[parent] for parent in graph.direct[index]})
        rows = f"{one.rows:,} rows" if one.made.kind == "dataset" else one.made.kind
        made_of = f" of {', '.join(map(str, above))}" if above else ""
        lines.append((f"{at}", printable(one.name, 200), printable(f"{one.made.op}{made_of}: {rows}", 200)))
    yield from terminal.table(lines)
