"""Every short name (slug) of an error is in docs/errors.md with its exit codes, and no other: read from the code
itself, where errors are made and through the helpers that make them.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator

from tests.sources import FILES, ROOT, TREES

ANY = "*"
UNREAD = {"errors.py", "predicate.py", "rank_status.py", "output.py", "sandbox.py", "schema.py", "named_file.py"}
"""Files that hand on what has its name elsewhere: errors that travel between processes, reasons of rejected rows, what
the template's process answers, faults of values, files whose kind names it. The page has these as families.
"""


def error_classes() -> dict[str, int]:
    """The exit code of every error class, by the class's name."""
    from schemas import errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.QuiverError)]
    return {kind.__name__: kind.code for kind in kinds}


def name_of_call(call: ast.Call) -> str:
    return getattr(call.func, "id", None) or getattr(call.func, "attr", "")


def texts(node: ast.expr, constants: dict[str, list[str]]) -> Iterator[str]:
    """The texts that an expression may be; `*` for a part that is known only when it runs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body, constants)
        yield from texts(node.orelse, constants)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else ANY for part in node.values)  # type: ignore[misc]
    elif isinstance(node, ast.Name) and node.id in constants:
        yield from constants[node.id]
    elif isinstance(node, ast.Call) and name_of_call(node) == "get" and isinstance(node.func, ast.Attribute):
        yield from (text for part in (node.func.value, *node.args[1:]) for text in texts(part, constants))
    elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
        yield from texts(node.value, constants)
    elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Dict):
        yield from (text for row in node.value.values if isinstance(row, ast.Tuple) for text in texts(row.elts[0], {}))
    else:
        yield ANY


def used() -> dict[str, set[int]]:
    """Every slug of the packages with its exit codes; `broken-*` is a family, and a helper's `slug` is followed."""
    codes, slugs = error_classes(), defaultdict[str, set[int]](set)
    peers = {name: value for path in FILES for name, value in constants_of(TREES[path]).items() if name == "PEER_LOST"}
    for path in FILES:
        tree = TREES[path]
        for slug, code in slugs_named(tree, codes):
            for text in texts(slug, {**peers, **constants_of(tree)}):
                if text != ANY or path.name not in UNREAD:
                    slugs[text].add(code)
    return dict(slugs)


def constants_of(tree: ast.Module) -> dict[str, list[str]]:
    """The texts of a file's constants: one, or the values of a table."""
    constants = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values = node.value.values if isinstance(node.value, ast.Dict) else [node.value]
            listed = [one.value for one in values if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            if listed:
                constants[node.targets[0].id] = listed
    return constants


def slugs_named(tree: ast.Module, codes: dict[str, int]) -> Iterator[tuple[ast.expr, int]]:
    """The expressions that become an error's slug in a file, each with the error's exit code."""
    helpers: dict[str, tuple[int, int]] = {}  # functions that hand their parameter `slug` on: its place, the code
    for scope in ast.walk(tree):
        if not isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        names = [one.arg for one in scope.args.args if one.arg not in ("self", "cls")]
        for call in ast.walk(scope):
            if isinstance(call, ast.Call) and name_of_call(call) in codes and call.args:
                code, slug = codes[name_of_call(call)], call.args[0]
                if not isinstance(slug, ast.Name):
                    yield slug, code
                elif slug.id in names:
                    helpers[scope.name] = (names.index(slug.id), code)
                else:
                    given = list(assigned(scope, slug.id))
                    yield from ((value, code) for value in given or [slug])
    for scope in ast.walk(tree):
        for call in ast.walk(scope) if isinstance(scope, (ast.FunctionDef, ast.AsyncFunctionDef)) else ():
            if isinstance(call, ast.Call) and name_of_call(call) in helpers:
                place, code = helpers[name_of_call(call)]
                slug = call.args[place] if len(call.args) > place else None
                if isinstance(slug, ast.Name):
                    yield from ((value, code) for value in assigned(scope, slug.id))
                elif slug is not None:
                    yield slug, code


def assigned(scope: ast.AST, name: str) -> Iterator[ast.expr]:
    """What a function assigns to `name`, alone or in a tuple."""
    for node in ast.walk(scope):
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if isinstance(target, ast.Name) and target.id == name:
                yield node.value
            elif isinstance(target, ast.Tuple):
                places = [
                    place for place, part in enumerate(target.elts) if isinstance(part, ast.Name) and part.id == name
                ]
                yield from (value for n in places for value in parts_of(node.value, n))


def parts_of(value: ast.expr, place: int) -> Iterator[ast.expr]:
    """What stands at a place of a tuple, of either of two, or of one that is looked up in a table."""
    if isinstance(value, ast.Tuple):
        yield value.elts[place]
    elif isinstance(value, ast.IfExp):
        yield from parts_of(value.body, place)
        yield from parts_of(value.orelse, place)
    else:
        yield value


def listed() -> dict[str, tuple[set[int], str, str]]:
    """The page's table: name, exit codes, meaning, what to do."""
    _, _, table = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8").partition("## Names\n")
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines() if line[:3] == "| `"]
    assert rows and all(len(row) == 4 for row in rows), [row for row in rows if len(row) != 4]
    names = [row[0].strip("`") for row in rows]
    assert names == sorted(set(names)), "the names are in order, each once"
    codes = ({int(code) for code in row[1].split(",")} for row in rows)
    return {name: (code, row[2], row[3]) for name, code, row in zip(names, codes, rows, strict=True)}


def test_the_page_lists_every_error_of_the_code_and_no_other() -> None:
    page, code = listed(), used()
    assert not code.keys() - page.keys(), f"not in docs/errors.md: {sorted(code.keys() - page.keys())}"
    assert not page.keys() - code.keys(), f"nothing raises {sorted(page.keys() - code.keys())}"
    assert {name: codes for name, (codes, *_) in page.items()} == code


def test_every_line_says_what_it_means_and_what_to_do() -> None:
    for name, (_, meaning, action) in listed().items():
        assert len(meaning) > 8 and len(action) > 3, name


def test_names_are_found_through_helpers_tables_and_either_of_two() -> None:
    tree = ast.parse("""
TABLE = {1: "one", 2: "two"}
def helper(slug, text):
    return DataError(slug, text)
def first(flag):
    what, slug = ("a", "b") if flag else ("c", "d")
    raise ConfigError(slug, what)
def second(number):
    name = TABLE.get(number, "other")
    raise StorageError(name, "")
def third(kind):
    raise helper(f"broken-{kind}", "")
""")
    seen = {
        (text, code) for slug, code in slugs_named(tree, error_classes()) for text in texts(slug, constants_of(tree))
    }
    storage = {("one", 12), ("two", 12), ("other", 12)}
    assert seen == {("b", 2), ("d", 2), ("broken-*", 10), *storage}
