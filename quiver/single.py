"""One operation, format or algorithm as a terminal shows it: what it does, the columns of its rows, its settings."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from datakit.formats.forms import Form
from datakit.formats.keys import Key
from datakit.op import Label, Op
from datakit.registry import INTERNAL
from quiver import inventory, reference
from schemas.process import terminal
from schemas.schema import Column
from trainers.algorithm import Algorithm


def operation(kind: type[Op]) -> Iterator[str]:
    """What `reference.operation` says of it, at the terminal's width."""
    example = reference.example(kind)
    family, _, name = kind.name.partition(".")
    yield kind.name
    yield ""
    yield from _prose(kind)
    yield terminal.wrapped(reference.facts(kind, example).replace("`", ""))
    if isinstance(example, Label):
        yield from _columns("Columns added", example.adds)
    yield from _settings("Settings" if family in INTERNAL else "Settings, for --params as JSON", kind)
    if family in inventory.VERBS:
        yield ""
        yield terminal.wrapped(f"As a command: quiver {inventory.VERBS[family]} --op {name} --data FOLDER_OR_FILE ...")


def file_format(form: Form) -> Iterator[str]:
    """The keys of its records, and the columns of the rows that they become."""
    yield form.name
    yield ""
    yield terminal.wrapped(f"Records: {form.meaning}")
    yield "\nKeys of a record; --columns gives them other names"
    yield from terminal.table([(key.name, _key(key)) for key in form.keys], "  ")
    yield from _columns(f"Columns of its rows, {form.schema.name}", form.schema.columns)
    yield ""
    if form.dialogues != ("plain",):
        yield terminal.wrapped(f"How texts are written: --dialogue {' / '.join(form.dialogues)}")
    yield terminal.wrapped(f"As a command: quiver Import --format {form.name} --files FILE")


def algorithm(own: Algorithm, name: str) -> Iterator[str]:
    """The algorithm under its name or that of one of its presets."""
    yield name
    yield ""
    if name in own.presets:
        yield terminal.wrapped(f"{own.name} with {inventory.spelled(own.presets[name])}.")
    yield terminal.wrapped(f"{terminal.sentence(inspect.getdoc(inspect.getmodule(own.loss)))}.")
    yield terminal.wrapped(f"Reports loss{''.join(f', {metric}' for metric in own.metrics)}.")
    yield from _columns(f"Columns of the rows it learns from, {own.rows.name}", own.rows.columns)
    given = own.presets.get(name, {})
    recipes = {key: value for key, value in own.in_recipes.items() if key not in given}
    yield from _settings("Settings, as --set settings.NAME=VALUE", own.settings, given, recipes)
    presets = [(one, inventory.spelled(preset)) for one, preset in own.presets.items()]
    if presets:
        yield "\nPresets, by their names as algorithms"
        yield from terminal.table(presets, "  ")
    yield ""
    yield terminal.wrapped(f"As a command: quiver Train --algorithm {name} --data TOKENS --model CHECKPOINT")


def _key(key: Key) -> str:
    others = f"; also {', '.join(key.aliases)}" if key.aliases else ""
    return f"{key.shape.name}{'; needed' if key.required else ''}{others}"


def _prose(kind: type) -> Iterator[str]:
    for block in reference.prose(kind).split("\n\n"):
        yield block if block.startswith(" ") else terminal.wrapped(" ".join(block.split()), "")
        yield ""


def _columns(title: str, columns: Sequence[Column]) -> Iterator[str]:
    yield f"\n{title}"
    yield from terminal.table(
        [(column.name, f"{reference.kind_of(column.type)}: {column.meaning}") for column in columns], "  "
    )


def _settings(
    title: str, kind: type, preset: Mapping[str, Any] | None = None, recipes: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """The settings of `kind` with their defaults: those of a `preset`, and those that `recipes` have beside its own."""
    settings = reference.settings(kind)
    if settings:
        yield f"\n{title}"
        rows = []
        for name, hint, default, meaning in settings:
            own = json.dumps(preset[name]) if preset and name in preset else default
            beside = f", of recipes {json.dumps(recipes[name])}" if recipes and name in recipes else ""
            rows.append((name, _about(hint, own + beside, meaning)))
        yield from terminal.table(rows, "  ")


def _about(hint: str, default: str, meaning: str) -> str:
    given = default if default == "needed" else f"default {default.replace('`', '')}"
    return f"{hint}; {given}{f'. {meaning}' if meaning else ''}"
