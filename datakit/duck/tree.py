"""The syntax tree of SQL text, held against lists of what may stand in it.

Every node must be of a kind that is listed, every function one of `functions.ALLOWED`, and an attribute that
is not listed must be empty: a clause of a newer DuckDB is refused until somebody has looked at it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datakit.duck.functions import ALLOWED, BY_NAME, FEWEST_ARGUMENTS, TABLES, VALUES
from schemas.errors import printable
from schemas.nearest import suggestion

_SCALAR = """BETWEEN CASE CAST COLLATE COLUMN_REF COMPARISON CONJUNCTION CONSTANT FUNCTION LAMBDA OPERATOR TYPE"""
_OPERATOR_TYPES = """ARRAY_CONSTRUCTOR ARRAY_EXTRACT ARRAY_SLICE ARROW
COMPARE_IN COMPARE_NOT_IN GROUPING_FUNCTION OPERATOR_COALESCE
OPERATOR_IS_NOT_NULL OPERATOR_IS_NULL OPERATOR_NOT OPERATOR_NULLIF OPERATOR_TRY OPERATOR_UNPACK STRUCT_EXTRACT"""
_CLAUSE_TYPES = """ASCENDING BASE_TABLE CTE_NODE DESCENDING DISTINCT_MODIFIER EMPTY EXPRESSION_LIST JOIN LIMIT_MODIFIER
LIMIT_PERCENT_MODIFIER ORDER_DEFAULT ORDER_MODIFIER PIVOT RECURSIVE_CTE_NODE SELECT_NODE SET_OPERATION_NODE
SUBQUERY TABLE_FUNCTION"""
_ATTRIBUTE_NAMES = """aggregate_handling aggregates alias aliases arg_orders arguments case_checks cast_type catalog
catalog_name child child_types children class collation column column_name_alias column_names columns comparison_type
condition cte_map cte_name default_expr delim_flipped distinct distinct_on_targets duplicate_eliminated_columns
else_expr end end_expr entries error exclude_clause exclude_list expected_names expected_types export_state expr
expression extension_info filter filter_expr first from_table function function_name group_expressions
group_sets groups has_ignore_nulls having id ignore_nulls include_nulls index input is_implicit is_null
is_operator join_type key key_targets kind left lhs limit limit_type literal lower map materialized modifiers
name named_param_map nearest_count nearest_order_type node null_order offset offset_expr order_bys orders
partitions path payload_aggregates pivot_enum pivot_expressions pivots qualified_exclude_list qualified_name
qualify query query_location query_location_length query_node ref_type relation_name rename_list replace_list
right scale schema schema_name second select_list select_statement setop_all setop_type size source star_expr
start start_expr statements subquery subquery_type syntax_type table table_name text then_expr try_cast type
type_expr type_info type_name union_all unpivot_names upper using_columns value values values_count when_expr
where_clause width with_ordinality"""

EXPRESSIONS = frozenset(_SCALAR.split())
"""Classes of nodes of one expression over the columns of a row."""

STATEMENTS = EXPRESSIONS | {"POSITIONAL_REFERENCE", "STAR", "SUBQUERY", "WINDOW"}
"""Classes of nodes of a whole SELECT."""

_OPERATORS = frozenset(_OPERATOR_TYPES.split())
_CLAUSES = frozenset(_CLAUSE_TYPES.split())
_ATTRIBUTES = frozenset(_ATTRIBUTE_NAMES.split())
_COLLATIONS = frozenset({"binary", "c", "nfc", "noaccent", "nocase", "posix"})
_QUALIFIERS = ("schema", "catalog", "schema_name", "catalog_name")
_UNSET: tuple[Any, ...] = (None, "", False, [], {}, "INVALID", "DEFAULT")


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object (dict) inside the JSON `tree`, itself included, in no particular order."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def with_names(node: dict[str, Any]) -> set[str]:
    """What a node's WITH entries are called, in small letters."""
    entries = node.get("cte_map")
    return {entry["key"].lower() for entry in entries["map"]} if isinstance(entries, dict) else set()


def refused(tree: Any, classes: frozenset[str], tables: frozenset[str] = frozenset()) -> str:
    """What in `tree` may not run, as the end of a sentence; empty if all of it may.

    `classes` are the kinds of expressions that may stand in it, `tables` (lower case; `schema.name`) what it may read;
    besides, what WITH names is read where that name holds, and nowhere else.
    """
    waiting = [(tree, tables)]
    while waiting:
        node, readable = waiting.pop()
        if isinstance(node, dict):
            reason = _refused_node(node, classes, readable) or _refused_attribute(node)
            if reason:
                return reason
            waiting += _inside(node, readable)
        elif isinstance(node, list):
            waiting += ((one, readable) for one in node)
    return ""


def _inside(node: dict[str, Any], readable: frozenset[str]) -> Iterator[tuple[Any, frozenset[str]]]:
    """What stands in a node, each with what it may read: an entry of WITH those before it, and itself where it is
    recursive; all else every entry.
    """
    entries = node.get("cte_map")
    for entry in entries["map"] if entries else ():
        name, value = entry["key"].lower(), entry["value"]
        recursive = value["query_node"]["type"] == "RECURSIVE_CTE_NODE"
        yield {**entry, "value": None}, readable
        yield value, readable | {name} if recursive else readable
        readable |= {name}
    yield from ((value, readable) for name, value in node.items() if name != "cte_map")


def _refused_node(node: dict[str, Any], classes: frozenset[str], tables: frozenset[str]) -> str:
    kind, family = node.get("type"), node.get("class")
    if family is None:
        if isinstance(kind, str) and kind not in _CLAUSES and not kind.endswith("_TYPE_INFO"):
            return f"holds {_words(kind)}"
        if kind == "BASE_TABLE" and table_name(node) not in tables:
            return f"reads {printable(table_name(node))}, which is not among its tables"
        if kind == "TABLE_FUNCTION" and node["function"]["function_name"].lower() not in TABLES:
            return f"reads from {printable(node['function']['function_name'])}()"
        return ""
    if family not in classes:
        return f"holds {_words(family)}"
    if family == "OPERATOR" and kind not in _OPERATORS:
        return f"holds {_words(str(kind))}"
    if family == "COLLATE" and not set(node["collation"].lower().split(".")) <= _COLLATIONS:
        return f"sorts by {printable(node['collation'])}, which is not one of {', '.join(sorted(_COLLATIONS))}"
    if (
        family == "COLUMN_REF"
        and len(node["column_names"]) == 1
        and tables
        and node["column_names"][0].lower() in VALUES
    ):
        name = printable(node["column_names"][0])
        return f"reads {name}, which asks about the session or the clock (a column of that name: table.{name})"
    return _refused_call(node) if family in ("FUNCTION", "WINDOW") else ""


def _refused_call(node: dict[str, Any]) -> str:
    name = node["function_name"].lower()
    given = node.get("arguments", node.get("children", ()))
    if name not in ALLOWED and name not in TABLES:
        guess = suggestion(name, sorted(ALLOWED))
        return f"calls {printable(name)}(), which is not among the functions of their arguments alone{guess}"
    if len(given) < FEWEST_ARGUMENTS.get(name, 0):
        return f"calls {printable(name)}() with {len(given)} argument, which reads the clock"
    if name in BY_NAME and (_qualified(node) or len(given) < 2 or _text(given[1]).lower() not in ALLOWED):
        return f"calls {printable(name)}() of something else than the name of a listed function as its second argument"
    return ""


def _text(argument: dict[str, Any]) -> str:
    """The text that an argument is written as; empty for anything but one constant."""
    expression = argument.get("expression", argument)
    constant = expression.get("literal", expression.get("value"))
    return str(constant.get("text", constant.get("value"))) if isinstance(constant, dict) else ""


def _refused_attribute(node: dict[str, Any]) -> str:
    for name, value in node.items():
        if name not in _ATTRIBUTES and value not in _UNSET:
            return "draws a sample by chance" if name == "sample" else f"holds {_words(name)}"
    return ""


def table_name(node: dict[str, Any]) -> str:
    """What a table is called in FROM, in small letters, with its schema where one is named."""
    names = (node.get("catalog_name"), node.get("schema_name"), node["table_name"])
    return ".".join(name.lower() for name in names if name)


def _qualified(node: dict[str, Any]) -> bool:
    return any(node.get(name) for name in _QUALIFIERS)


def _words(kind: str) -> str:
    """A node's kind as words: `LIMIT_MODIFIER` is "a limit modifier"."""
    plain = {"SUBQUERY": "sub-select", "SHOW_REF": "question about the session", "DEFAULT": "default value"}.get(kind)
    plain = plain or printable(kind).lower().replace("_", " ")
    return f"{'an' if plain[0] in 'aeiou' else 'a'} {plain}"
