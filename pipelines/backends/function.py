"""A Python function as a scorer, `module:function`: handed columns as lists, by the names of its parameters; as a
judge: handed the conversations in which it is asked; or as an environment: handed conversations, and columns.

It is known by its name and its module's text, read without running it: editing the file makes the scores anew.
"""

from __future__ import annotations

import ast
import hashlib
import os
import shlex
import sys
import tokenize
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from datakit.clients import Determinism
from datakit.op import NOTHING, Capability
from pipelines.graph.backend import Backend, Placement, Role, register
from pipelines.graph.external import ExternalModel
from pipelines.graph.node import GraphBuilder, Node
from schemas import IMAGES, Schema
from schemas.errors import ConfigError, printable
from schemas.nearest import nearest


@register
class Function(Backend):
    """A function called with the columns of its parameters that have no default; it returns a number a row. As a judge
    it has one parameter, the conversations, and returns a text each; of images it has two, pixels as a tensor
    [B, 3, h, w] from 0 to 1 and the list of prompts, and returns a tensor [B]. As an environment its first parameter
    are conversations that end in an answer, the others are columns; it returns what comes next of each.
    """

    kind: ClassVar[str] = "function"
    form: ClassVar[str] = "module:function"
    example: ClassVar[str] = "my_rewards:brevity"
    roles: ClassVar[Mapping[Role, frozenset[Capability]]] = {
        "scorer": frozenset({"scores"}),
        "judge": frozenset(),
        "image_scorer": frozenset({"scores"}),
        "environment": frozenset(),
    }
    settings: ClassVar[tuple[str, ...]] = ("workers",)

    def recognises(self, reference: str) -> bool:
        module, colon, name = reference.partition(":")
        return bool(colon) and name.isidentifier() and all(part.isidentifier() for part in module.split("."))

    def node(self, plan: GraphBuilder, reference: str) -> Node:
        identity = self.identity_now(reference)
        return ExternalModel(label=reference, root=plan.root, reference=reference, backend=self.kind, identity=identity)

    def identity_now(self, url: str) -> Mapping[str, Any]:
        """Its name and its module's text."""
        text = hashlib.sha256(_text(url).encode()).hexdigest()
        return {"name": "python", "version": 1, "params": {"function": url, "text": text}}

    def takes(self, node: Node, role: Role, rows: Schema) -> Schema:
        """The columns that the function's parameters name."""
        names = _parameters(node.url)
        if role == "judge":
            return _asked(node.url, names)
        if role == "image_scorer":
            return _of_images(node.url, names)
        if role == "environment":
            names = _beside_conversations(node.url, names)
        elif not names:
            raise ConfigError(
                "no-function",
                f"{printable(node.url)} asks for no column: no parameter of it is without a default",
                expected=f"parameters named after columns: {', '.join(rows.names)}",
                kept="nothing was started",
                next=f"write it as def {printable(node.url.partition(':')[2])}({_usual(rows)})",
            )
        unknown = [name for name in names if name not in rows]
        if unknown:
            raise ConfigError(
                "unknown-column",
                f"{printable(node.url)} asks for {', '.join(map(printable, unknown))}",
                expected=f"parameters named after columns: {', '.join(rows.names)}",
                kept="nothing was started",
                next="name its parameters after columns",
            )
        return rows.selecting(*names)

    def determinism(self, node: Node) -> Determinism:
        return "none"

    def open(self, url: str, role: Role, takes: Schema, placement: Placement) -> object:
        from datakit.clients import PythonEnvironment, PythonJudge, PythonScorer
        from datakit.clients.python import imported

        reach(url)
        if role == "image_scorer":
            from trainers.images.inference import ImageScorer

            return ImageScorer(imported(url))
        if role == "environment":
            return PythonEnvironment(url, takes)
        return PythonJudge(url) if role == "judge" else PythonScorer(url, takes)

    def notes(self, node: Node) -> Sequence[str]:
        return (f"code of yours that runs: {printable(node.url)}, in {printable(place_of(node.url), 200)}",)


def _usual(rows: Schema) -> str:
    return "response" if "response" in rows else next(iter(rows.names), "response")


def _asked(function: str, names: list[str]) -> Schema:
    """What a judge reads of rows itself: nothing; `ConfigError` where it does not take conversations."""
    if len(names) != 1:
        raise ConfigError(
            "no-function",
            f"{printable(function)} is no judge: it takes {', '.join(map(printable, names)) or 'nothing'}",
            expected=f"def {printable(function.partition(':')[2])}(conversations), which returns a text each",
            kept="nothing was started",
        )
    return NOTHING


def _of_images(function: str, names: list[str]) -> Schema:
    """What a reward of images reads of rows: prompt and image; `ConfigError` where it takes anything but these two."""
    if len(names) != 2:
        raise ConfigError(
            "no-function",
            f"{printable(function)} rewards no images: it takes {', '.join(map(printable, names)) or 'nothing'}",
            expected=f"def {printable(function.partition(':')[2])}(pixels, prompts), which returns a number an image",
            kept="nothing was started",
        )
    return IMAGES.selecting("prompt", "image")


def _beside_conversations(function: str, names: list[str]) -> list[str]:
    """The columns that an environment reads; `ConfigError` where conversations are not its first parameter."""
    if names[:1] == ["conversations"]:
        return names[1:]
    raise ConfigError(
        "no-function",
        f"{printable(function)} is no environment: it takes {', '.join(map(printable, names)) or 'nothing'}",
        expected=f"def {printable(function.partition(':')[2])}(conversations, ...), which returns a turn each",
        kept="nothing was started",
    )


class _Beside(MetaPathFinder):
    """Finds one module in the working folder, after all that is installed; no other one that lies there."""

    def __init__(self, name: str) -> None:
        self.name, self.folder = name, os.getcwd()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return PathFinder.find_spec(fullname, [self.folder]) if fullname == self.name and path is None else None


def reach(function: str) -> None:
    """Let the module (or package) that holds `function`, and nothing else, be imported from the working folder."""
    name = function.partition(":")[0].partition(".")[0]
    finders = [each for each in sys.meta_path if isinstance(each, _Beside)]
    if not any((each.name, each.folder) == (name, os.getcwd()) for each in finders):
        sys.meta_path.append(_Beside(name))


def place_of(function: str) -> str:
    """The file that holds `function`, found without running it; `ConfigError` if there is none."""
    module, colon, _ = function.partition(":")
    spec = _spec(module) if colon else None
    if spec is None or spec.origin is None or not os.path.isfile(spec.origin):
        raise ConfigError(
            "no-function",
            f"there is no Python module for {printable(function)}",
            expected="module:function, importable from the working folder",
            kept="nothing was started",
            wrong=(function,),
            nearest=_near_module(function),
        )
    return spec.origin


def _near_module(function: str) -> str:
    module, _, name = function.partition(":")
    near = nearest(module, [path.stem for path in Path.cwd().glob("*.py")])
    return near and f"{near}:{name}"


def _spec(module: str) -> ModuleSpec | None:
    """The spec of a module, asked of path after path: `importlib.util.find_spec` runs the packages that hold it."""
    top, *parts = module.split(".")
    spec = PathFinder.find_spec(top) or PathFinder.find_spec(top, [os.getcwd()])
    name = top
    for part in parts:
        if spec is None or spec.submodule_search_locations is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations))
    return spec


def _text(function: str) -> str:
    """The module's text, as its own coding line says; `ConfigError` where Python could not read it either."""
    place = place_of(function)
    try:
        with tokenize.open(place) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeError) as fault:
        raise _unreadable(function, place, fault) from fault


def _unreadable(function: str, place: str, fault: BaseException) -> ConfigError:
    line = getattr(fault, "lineno", None)
    return ConfigError(
        "no-function",
        f"the module of {printable(function)} is not Python that can be read",
        found=f"{type(fault).__name__}: {printable(fault, 200)}",
        where=printable(place, 200) + (f", line {line}" if line else ""),
        kept="nothing was started",
        next=f"python -m py_compile {shlex.quote(place)}",
    )


def _parameters(function: str) -> list[str]:
    name = function.partition(":")[2]
    text, place = _text(function), place_of(function)
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as fault:
        raise _unreadable(function, place, fault) from fault
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    defined = [part for part in tree.body if isinstance(part, kinds) and part.name == name]
    if defined and isinstance(defined[-1], ast.AsyncFunctionDef):
        raise ConfigError(
            "no-function",
            f"{printable(function)} is an async def: called, it returns a coroutine and no scores",
            expected=f"def {printable(name)}(...), which returns its scores",
            where=f"{printable(place, 200)}, line {defined[-1].lineno}",
            kept="nothing was started",
            next=f"write it as def {printable(name)}(...); what it awaits runs inside with asyncio.run(...)",
        )
    if not defined:
        near = nearest(name, [part.name for part in tree.body if isinstance(part, ast.FunctionDef)])
        raise ConfigError(
            "no-function",
            f"{printable(function)}: the module defines no such function",
            expected=f"def {printable(name)}(response): ...",
            kept="nothing was started",
            wrong=(function,),
            nearest=near and f"{function.partition(':')[0]}:{near}",
        )
    given = defined[-1].args
    positional = [*given.posonlyargs, *given.args]
    needed = positional[: len(positional) - len(given.defaults)]
    named = [arg for arg, default in zip(given.kwonlyargs, given.kw_defaults, strict=True) if default is None]
    return [arg.arg for arg in (*needed, *named)]
