"""What every registered operation keeps. Driven by the registry: a new operation needs no edit here.

An operation is tried with its default settings on its schema's own example; one that needs more (settings
without a default, files, a resource, rows that mean something) names `EXAMPLES` in
`tests/datakit/<family>/test_<op>.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import pickle
import typing
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from datakit.apply import apply, check
from datakit.op import Blend, Expand, Gather, GatherAll, Keep, Label, Op, Read
from datakit.registry import FAMILIES, INTERNAL, OPS, op_of
from schemas.canonical import canonical, plain
from schemas.errors import ConfigError, DataError, QuiverError
from schemas.schema import Schema
from tests.datakit.fakes import Example
from tests.tail import late

HERE = Path(__file__).parent
CUTS = (2, 3, 3, 7)
SEED = 11


def examples_of(kind: type[Op]) -> list[Example]:
    """The operation's own examples, or its defaults."""
    family, _, file = kind.name.partition(".")
    if (HERE / family / f"test_{file}.py").exists():
        examples = getattr(importlib.import_module(f"tests.datakit.{family}.test_{file}"), "EXAMPLES", None)
        if examples is not None:
            return list(examples)
    return [Example(kind())]


def tried() -> tuple[list[pytest.param], dict[str, Exception]]:
    """A case for every example, and why an operation has none."""
    cases, without = [], {}
    for kind in OPS.values():
        try:
            examples = examples_of(kind)
            for example in examples:
                schemas = [Schema.of_arrow(table.schema) for table in example.inputs()]
                check(example.op, schemas, example.resources)
            cases += [pytest.param(example, id=f"{kind.name}-{n}") for n, example in enumerate(examples)]
        except (TypeError, QuiverError) as fault:
            without[kind.name] = fault
    return cases, without


CASES, WITHOUT = tried()
every_example = pytest.mark.parametrize("example", CASES)
SHAPES = (Read, Label, Keep, Expand, GatherAll, Gather, Blend)


def kin(kind: type[Op]) -> tuple[str, str, bool]:
    """Family and shape of an operation, and whether processes get more for it than rows."""
    shape = next(one.__name__ for one in SHAPES if issubclass(kind, one))
    return kind.name.partition(".")[0], shape, bool(kind.needs)


SOON = {f"{kind.name}-0" for kind in {kin(kind): kind for kind in reversed(OPS.values())}.values()}
in_processes = pytest.mark.parametrize(
    "example", [case if case.id in SOON else late(*case.values, id=case.id) for case in CASES]
)
"""The first example of the first operation of each `kin`, and the rest in the tail: every case starts processes."""


@pytest.fixture
def run(put, tmp_path):
    """`run(example, name, cuts=...)`: the operation over its example, published under `name`."""

    def work(example: Example, name: str, cuts=(), tables=None, **settings):
        tables = example.inputs() if tables is None else tables
        given = [put(table, whole_groups(example.op, table, cuts)) for table in tables]
        return apply(example.op, given, str(tmp_path / name), resources=example.resources, **settings)

    return work


@pytest.fixture(scope="module")
def once(put, tmp_path_factory):
    """`once(example, cuts)`: the operation over its example, run for the first who asks; nobody may change it."""
    folder, made = tmp_path_factory.mktemp("once"), {}

    def work(example: Example, cuts=()):
        asked = id(example), tuple(cuts)  # `CASES` holds them all
        if asked not in made:
            given = [put(table, whole_groups(example.op, table, cuts)) for table in example.inputs()]
            place = str(folder / str(len(made)))
            made[asked] = apply(example.op, given, place, resources=example.resources, seed=SEED)
        return made[asked]

    return work


def whole_groups(op: Op, table: pa.Table, cuts: Sequence[int]) -> list[int]:
    """`cuts` inside the table; for a Gather, moved to where the samples of a prompt end."""
    cuts = [min(cut, table.num_rows) for cut in cuts]
    if not isinstance(op, Gather) or "prompt_id" not in table.column_names:
        return cuts
    names = table["prompt_id"].to_pylist()
    starts = [row for row in range(table.num_rows) if row == 0 or names[row] != names[row - 1]]
    return [min((start for start in starts if start >= cut), default=table.num_rows) for cut in cuts]


@every_example
def test_gives_what_it_promises(example, once):
    out = once(example)
    schemas = [Schema.of_arrow(table.schema) for table in example.inputs()]
    assert out.schema == example.op.gives(*schemas)
    assert out.schema.check(out.read()).num_rows == out.num_rows
    assert out.num_rows + sum(file.rows for file in out.rejected) > 0, "the example shows nothing"
    assert out.manifest.op == {
        "name": example.op.name,
        "version": example.op.version,
        "params": example.op.params(),
    }


@every_example
def test_shards_do_not_matter(example, once):
    if isinstance(example.op, Read) or (isinstance(example.op, Gather) and "prompt_id" not in example.op.takes):
        pytest.skip("a Read has no shards, and a Gather without a key works on shards as they are")
    whole, cut = once(example), once(example, CUTS)
    assert cut.read() == whole.read()
    if whole.rejected:
        assert cut.read_rejected() == whole.read_rejected()


@every_example
def test_chunks_do_not_matter(example, run, once):
    if not isinstance(example.op, Label | Keep) or hasattr(example.op, "rows_per_chunk"):
        pytest.skip("its chunk is a setting of its own, or it has none")
    assert once(example).content_digest == run(example, "cut", rows_per_chunk=2, seed=SEED).content_digest


@every_example
def test_no_rows_are_fine(example, run):
    if isinstance(example.op, Read):
        pytest.skip("a reader has no input rows")
    empty = [table.slice(0, 0) for table in example.inputs()]
    if isinstance(example.op, GatherAll | Blend):
        with contextlib.suppress(DataError):
            run(example, "out", tables=empty)
        return
    out = run(example, "out", tables=empty)
    assert out.num_rows == 0 or isinstance(example.op, Gather), "rows came of nothing"


@every_example
def test_is_its_own_configuration(example):
    op = example.op
    again = type(op).of(json.loads(json.dumps(plain(op))))
    assert again == op
    assert canonical(again.params()) == canonical(op.params())
    assert pickle.loads(pickle.dumps(op)) == op
    with pytest.raises(dataclasses.FrozenInstanceError):
        op.name_of_nothing = 1
    with pytest.raises(ConfigError, match="unknown key no_such_setting"):
        type(op).of({**plain(op), "no_such_setting": 1})


ODD_VALUES = (
    None,
    True,
    -3,
    10**400,
    1e300,
    "x",
    [],
    ["a"],
    [1],
    [["a"]],
    {},
    {"a": "b"},
    {"a": 1},
    {"response": ["a"]},
)


@every_example
def test_a_setting_of_a_wrong_type_is_refused(example):
    """Whatever JSON stands under a key: the operation takes it and is its own JSON again, or it is a `ConfigError`."""
    settings = json.loads(json.dumps(plain(example.op)))
    refused = 0
    for name in settings:
        for value in ODD_VALUES:
            try:
                op = type(example.op).of({**settings, name: value})
            except ConfigError:
                refused += 1
            else:
                assert type(op).of(json.loads(canonical(op))) == op, (name, value)
    assert refused or not settings, "nothing was refused"


@every_example
def test_a_setting_may_name_any_column_or_is_refused(example):
    """Each setting names every column that the operation reads or adds: that works, or is an error that
    says where."""
    settings = json.loads(json.dumps(plain(example.op)))
    schemas = [Schema.of_arrow(table.schema) for table in example.inputs()]
    added = example.op.adds if isinstance(example.op, Label) else ()
    names = dict.fromkeys([*example.op.takes.names, *(column.name for column in added), "sample_index", "score"])
    for setting in settings:
        for name in names:
            for value in (name, [name], [name, name], [[name, name]], {"input": name}, {"input": [name]}):
                lacking: set[str] = set()
                try:
                    made = type(example.op).of({**settings, setting: value})
                    lacking = {*made.takes.names} - {*(schemas[0].names if schemas else ())}
                    check(made, schemas, example.resources)
                except (ConfigError, DataError) as error:
                    text = error.render()
                    assert any(word in text for word in (setting, name, *lacking)), (setting, value, text)


TWICE = {
    "template.chat": {"response": "messages"},
    "template.fit": {"max_length": 9, "response": "messages"},
    "template.reward_template": {"plain": "messages"},
    "tokenize.mask": {"id_column": "pieces"},
    "tokenize.prompt_template": {"columns": {"input": "sample_id"}, "template": "{input} {output}"},
    "filter.best_of": {"column": "score", "key": "sample_index"},
    "label.verify": {"kind": "text", "answer": "response"},
    "label.divergence": {"ids": "loss_mask"},
}


@pytest.mark.parametrize("name", TWICE)
def test_a_column_that_would_stand_there_twice_is_a_bad_setting(name):
    def checked():
        op = op_of(name, TWICE[name])
        return op.gives(op.takes)

    with pytest.raises(ConfigError, match="would have a column twice") as caught:
        checked()
    assert (caught.value.slug, caught.value.code) == ("bad-setting", 2)


@pytest.mark.parametrize(
    ("name", "settings"), [("tokenize.train", {"vocab_size": 10**18}), ("filter.best_of", {"k": 10**30})]
)
def test_a_number_beyond_any_use_is_a_bad_setting(name, settings):
    with pytest.raises(ConfigError, match="000000") as caught:
        op_of(name, settings)
    assert caught.value.slug == "bad-setting"


def _is_choice(kind: type[Op], name: str) -> bool:
    return "Literal[" in str(typing.get_type_hints(kind)[name])


CHOICES = [(kind, f.name) for kind in OPS.values() for f in dataclasses.fields(kind) if _is_choice(kind, f.name)]


@pytest.mark.parametrize(("kind", "name"), [pytest.param(*case, id=f"{case[0].name}-{case[1]}") for case in CHOICES])
def test_a_choice_that_python_gives_wrongly_is_refused_at_once(kind, name):
    """With no other setting given: the fault is that of the choice, before any of the operation's own."""
    with pytest.raises(ConfigError, match=f"{name}: .*no-such-choice.* is not ") as fault:
        kind(**{name: "no-such-choice"})
    assert fault.value.slug == "bad-setting" and fault.value.next == f"quiver ops {kind.name}"


def _needed(example: Example) -> list[str]:
    """Columns of all inputs without which the operation cannot be."""
    schemas = [Schema.of_arrow(table.schema) for table in example.inputs()]
    needed = []
    for name in dict.fromkeys(name for schema in schemas for name in schema.names):
        try:
            check(example.op, [schema.dropping(name) for schema in schemas], example.resources)
        except QuiverError:
            needed.append(name)
    return needed


@pytest.mark.parametrize(
    ("kind", "params"),
    [pytest.param(kind, params, id=f"{kind.name}-{n}") for kind in OPS.values() for n, params in enumerate(kind.makes)],
)
def test_settings_that_errors_name_are_whole(kind, params):
    """What an error says to run where a column is missing (`Op.makes`) is an operation, and adds columns."""
    op = kind.of(params)
    assert {*op.gives(op.takes).names} - {*op.takes.names}


@every_example
def test_refuses_other_rows_naming_the_column(example, put, tmp_path):
    """Columns that it takes, and those of its inputs that it cannot do without for what it gives."""
    needed = list(dict.fromkeys([*example.op.takes.names, *_needed(example)]))
    if not needed:
        pytest.skip("it reads whatever columns there are")
    for name in needed:
        given = []
        for table in example.inputs():
            schema = Schema.of_arrow(table.schema).dropping(name)
            given.append(put(table, schema=schema))
        with pytest.raises(QuiverError, match=name) as caught:
            apply(example.op, given, str(tmp_path / "out"), resources=example.resources)
        assert caught.value.slug in ("schema", "query", "unknown-column")
        assert not (tmp_path / "out").exists()


@in_processes
def test_the_number_of_workers_does_not_matter(example, run, once):
    inline, pooled = once(example, CUTS), run(example, "pooled", CUTS, seed=SEED, processes=2)
    assert inline.manifest.files == pooled.manifest.files
    assert inline.manifest.rejected == pooled.manifest.rejected
    assert inline.stats == pooled.stats


@pytest.mark.parametrize("kind", OPS.values(), ids=list(OPS))
def test_can_be_tried(kind):
    family, _, file = kind.name.partition(".")
    assert kind.name not in WITHOUT, f"name EXAMPLES in tests/datakit/{family}/test_{file}.py: {WITHOUT[kind.name]}"


@pytest.mark.parametrize("kind", OPS.values(), ids=list(OPS))
def test_is_described(kind):
    assert (kind.__doc__ or "").strip(), f"{kind.__name__} has no docstring"
    family, _, file = kind.name.partition(".")
    assert family in (*FAMILIES, *INTERNAL)
    assert kind.__module__ == f"datakit.{family}.{file}", f"{kind.name} stands in {kind.__module__}"
    assert kind.__dataclass_params__.frozen
    assert all(field.kw_only for field in dataclasses.fields(kind))


def test_an_unknown_name_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"there is no operation label.lenght \(did you mean label.length\?\)"):
        op_of("label.lenght")
    assert op_of("label.length", {"unit": "words"}) == OPS["label.length"](unit="words")
