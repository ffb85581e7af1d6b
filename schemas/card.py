"""A card in Markdown for what leaves a workspace: what it is, what made it with which settings, what that was made of.

Places are not in it, only the last part of each: it is read on other machines. All that manifests say is escaped: a
renderer of Markdown makes neither markup nor links of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from schemas.display import human_bytes, reachable
from schemas.errors import counted, escaped
from schemas.manifest import Manifest, Parent
from schemas.schema import Schema

_MARKUP = re.compile(r"([\\`*_{}\[\]()#+\-.!|~>$:@])")
_LONGEST, _LINES, _DEEPEST = 300, 200, 60


def plain(value: object) -> str:
    """`value` as Markdown shows it letter by letter, in one line and not too long."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = escaped(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…")
    text = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKUP.sub(r"\\\1", text)


def model_card(name: str, exported: Manifest, url: str, card_of: Mapping[str, str]) -> str:
    """The card of a model folder `name` whose manifest is `exported`, at `url`; `card_of` stands before its text, as
    hubs of models read it.
    """
    lines = [f"# {plain(name)}", "", "A model that Quiver exported for other programs.", ""]
    checkpoint = next((known for one in exported.parents if isinstance(known := reachable(url, one), Manifest)), None)
    if checkpoint is not None:
        lines += ["## Training", "", *_settings(checkpoint), *_figures(checkpoint)]
    return _whole(card_of, [*lines, *_scale(exported), *_lineage(exported, url)])


def dataset_card(name: str, rows: int, schema: Schema, manifest: Manifest, url: str, card_of: Mapping[str, str]) -> str:
    """The card of the file `name` with `rows` rows of the dataset at `url`, whose rows are of `schema`."""
    columns = [f"| {plain(one.name)} | {plain(str(one.type))} | {plain(one.meaning)} |" for one in schema.columns]
    lines = [
        f"# {plain(name)}",
        "",
        f"{counted(rows, 'row')} of {plain(schema.name)} that Quiver wrote for other programs.",
        "",
        "## Columns of the dataset",
        "",
        "| column | type | meaning |",
        "|---|---|---|",
        *columns,
        "",
        "## Made by",
        "",
        *_settings(manifest),
    ]
    return _whole(card_of, [*lines, *_lineage(manifest, url)])


def _whole(card_of: Mapping[str, str], lines: list[str]) -> str:
    head = [f"{key}: {json.dumps(value)}" for key, value in card_of.items()]
    return "\n".join(["---", *head, "---", "", *lines]) + "\n"


def _settings(manifest: Manifest) -> Iterator[str]:
    params = _object(manifest.op.get("params"))
    yield f"Operation {plain(manifest.op.get('name', manifest.kind))}, seed {manifest.seed}."
    yield ""
    given = {key: value for key, value in params.items() if value not in (None, "", [], {})}
    if given:
        yield from ("| setting | value |", "|---|---|")
        yield from (f"| {plain(key)} | {plain(value)} |" for key, value in given.items())
        yield ""


def _figures(manifest: Manifest) -> Iterator[str]:
    figures = _object(manifest.facts.get("stats"))
    numbers = {key: value for key, value in figures.items() if isinstance(value, int | float)}
    if numbers:
        yield from ("| last figure | value |", "|---|---|")
        yield from (f"| {plain(key)} | {value:.6g} |" for key, value in numbers.items())
        yield ""


def _scale(manifest: Manifest) -> Iterator[str]:
    scale = {
        name: [of["mean"], of["std"], of["count"]]
        for name, of in _object(manifest.facts.get("reward_scale")).items()
        if isinstance(of, dict) and all(isinstance(of.get(one), int | float) for one in ("mean", "std", "count"))
    }
    if scale:
        yield from ("## Rewards of held-out answers", "", "| number | mean | spread | answers |", "|---|---|---|---|")
        for name, (mean, std, count) in scale.items():
            yield f"| {plain(name)} | {mean:.6g} | {std:.6g} | {count} |"
        yield ""


def _object(value: Any) -> Mapping[str, Any]:
    """A manifest may say anything: what is no object says nothing."""
    return value if isinstance(value, Mapping) else {}


def _lineage(manifest: Manifest, url: str) -> Iterator[str]:
    yield from ("## Lineage", "", "What it was made of, as far as that could be read, with the digest of each:", "")
    lines: list[str] = []
    _trace(manifest, url, "", lines, set(), 0)
    yield from lines[:_LINES]
    if len(lines) > _LINES:
        yield f"- and {counted(len(lines) - _LINES, 'more line')}"


def _trace(manifest: Manifest, url: str, role: str, lines: list[str], seen: set[str], depth: int) -> None:
    size = counted(manifest.num_rows, "row") if manifest.kind == "dataset" else human_bytes(manifest.num_bytes)
    named = f"{plain(role)}: " if role and not role.isdecimal() else ""
    op, name = plain(manifest.op.get("name", manifest.kind)), plain(url.rstrip("/").rpartition("/")[2])
    again = ", as above" if manifest.content_digest in seen and manifest.parents else ""
    lines.append(f"{'  ' * depth}- {named}{op}: {name}, {size} ({manifest.content_digest[:12]}){again}")
    if manifest.content_digest in seen or depth == _DEEPEST or len(lines) > _LINES:
        return
    seen.add(manifest.content_digest)
    for parent in manifest.parents:
        _parent(parent, url, lines, seen, depth + 1)


def _parent(parent: Parent, url: str, lines: list[str], seen: set[str], depth: int) -> None:
    known = reachable(url, parent)
    if isinstance(known, Manifest):
        _trace(known, parent.url, parent.name, lines, seen, depth)
    else:
        name = plain(parent.url.rstrip("/").rpartition("/")[2])
        lines.append(f"{'  ' * depth}- {plain(parent.name)}: {name} {plain(known)} ({parent.content_digest[:12]})")
