"""Manifests: equal for equal content, refused when damaged or hostile; task keys; types as JSON; stats that
merge.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from pathlib import Path

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given

from schemas import CHATS, PREFERENCES, SAMPLES, TOKENS
from schemas.arrowtypes import type_from_json, type_to_json
from schemas.canonical import canonical
from schemas.dataset import Dataset
from schemas.errors import IntegrityError
from schemas.manifest import File, Manifest, Parent, task_key_of
from schemas.stats import measure, merge_measures, moments, std
from tests.faults.writers import REJECTED, ROWS, write

MANIFEST = Manifest(
    schema=ROWS,
    rejected_schema=REJECTED,
    task_key="k" * 64,
    op={"name": "label.length", "version": 1, "params": {"column": "response", "limit": 0.1}},
    parents=(Parent("rows", "/data/x", "d" * 64, "e" * 64),),
    seed=17,
    files=(File("part-00000.parquet", 10, 100, "a" * 64), File("part-00001.parquet", 11, 101, "b" * 64)),
    rejected=(File("rejected/part-00000.parquet", 1, 50, "c" * 64),),
    stats={"columns": {"reward": {"count": 21, "mean": 0.1 + 0.2}}},
    facts={"tokenizer": {"name": "gpt2"}},
    runtime_info={"seconds": 1.25, "host": "h"},
)


def sealed(change: object, keep_digest: bool = False) -> bytes:
    """A manifest with right checksums whose content was changed by someone who knows how."""
    import hashlib

    body = json.loads(MANIFEST.to_bytes())
    body.pop("checksum")
    change(body)  # type: ignore[operator]
    if not keep_digest and isinstance(body.get("content"), dict):
        content = dict(body["content"])
        content["parents"] = [{k: v for k, v in p.items() if k != "url"} for p in content.get("parents", [])]
        body["digest"] = hashlib.sha256(canonical(content).encode()).hexdigest()
    return json.dumps({**body, "checksum": hashlib.sha256(canonical(body).encode()).hexdigest()}).encode()


def test_a_manifest_comes_back_as_it_was() -> None:
    back = Manifest.from_bytes(MANIFEST.to_bytes(), "d")
    assert back == MANIFEST
    assert back.runtime_info == MANIFEST.runtime_info
    assert back.content_digest == MANIFEST.content_digest
    assert hash(back) == hash(MANIFEST)
    assert Manifest.from_bytes(sealed(lambda body: None), "d") == MANIFEST


HOSTILE = [
    (lambda c: c["files"][0].update(path="../x"), "hostile-name"),
    (lambda c: c["files"][0].update(path="/etc/passwd"), "hostile-name"),
    (lambda c: c["rejected"][0].update(path="a/../../b"), "hostile-name"),
    (lambda c: c["files"][0].update(path="s3://b/x"), "hostile-name"),
    (lambda c: c["files"][0].update(path="part-00001.parquet"), "manifest-malformed"),
    (lambda c: c["files"][0].update(rows=-1), "manifest-malformed"),
    (lambda c: c["files"][0].update(rows=True), "manifest-malformed"),
    (lambda c: c["files"][0].update(bytes="1"), "manifest-malformed"),
    (lambda c: c["files"][0].update(sha256="A" * 64), "manifest-malformed"),
    (lambda c: c["files"].append(3), "manifest-malformed"),
    (lambda c: c.update(files={}), "manifest-malformed"),
    (lambda c: c.update(files="abc"), "manifest-malformed"),
    (lambda c: c.update(kind="pickle"), "manifest-malformed"),
    (lambda c: c.update(schema=None), "manifest-malformed"),
    (lambda c: c["schema"]["columns"][0].update(type="object"), "manifest-malformed"),
    (lambda c: c["schema"]["columns"].append(c["schema"]["columns"][0]), "manifest-malformed"),
    (lambda c: c["schema"].update(key=["none"]), "manifest-malformed"),
    (lambda c: c.update(seed="1"), "manifest-malformed"),
    (lambda c: c.update(stats=[]), "manifest-malformed"),
    (lambda c: c.pop("op"), "manifest-malformed"),
    (lambda c: c.update(parents=[{"name": "x"}]), "manifest-malformed"),
]


@pytest.mark.parametrize(("change", "slug"), HOSTILE)
def test_a_hostile_manifest_with_right_checksums_is_refused(change: object, slug: str) -> None:
    data = sealed(lambda body: change(body["content"]))  # type: ignore[operator]
    with pytest.raises(IntegrityError) as caught:
        Manifest.from_bytes(data, "d")
    assert caught.value.slug == slug


@pytest.mark.parametrize(
    ("data", "slug"),
    [
        (b"", "manifest-torn"),
        (b"[" * 100_000, "manifest-torn"),
        (b"[]", "manifest-torn"),
        (b"\xff\xfe", "manifest-torn"),
        (b'{"quiver": NaN}', "manifest-torn"),
        (b'{"quiver": 1, "quiver": 2}', "manifest-torn"),
        (b'{"quiver": "quiver-manifest/9"}', "manifest-format"),
        (sealed(lambda body: body["runtime_info"].update(x="y")), ""),
        (sealed(lambda body: body.update(digest="0" * 64), keep_digest=True), "manifest-torn"),
        (sealed(lambda body: body.update(content=[])), "manifest-malformed"),
    ],
)
def test_what_is_no_manifest_is_refused(data: bytes, slug: str) -> None:
    if not slug:
        assert Manifest.from_bytes(data, "d") == MANIFEST
        return
    with pytest.raises(IntegrityError) as caught:
        Manifest.from_bytes(data, "d")
    assert caught.value.slug == slug
    assert caught.value.next


def test_2000_damaged_manifests_are_refused_or_equal(tmp_path: Path) -> None:
    url = str(tmp_path / "d")
    write(url)
    good = Dataset.open(url).manifest
    data = (tmp_path / "d" / "_manifest.json").read_bytes()
    seed, equal = 20261121, 0
    chance = random.Random(seed)
    for trial in range(2000):
        damaged = bytearray(data)
        how = trial % 4
        at = chance.randrange(len(data))
        if how == 0:
            damaged[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            del damaged[at:]
        elif how == 2:
            del damaged[at : at + chance.randrange(1, 9)]
        else:
            damaged[at:at] = data[: chance.randrange(1, 99)]
        try:
            manifest = Manifest.from_bytes(bytes(damaged), url)
        except IntegrityError:
            continue
        assert manifest == good, f"seed {seed}, trial {trial}"
        assert manifest.runtime_info == good.runtime_info, f"seed {seed}, trial {trial}"
        equal += 1
    print(f"manifest: 2000 damaged (seed {seed}), {equal} only in white space, 0 wrong")


def test_a_key_is_a_function_of_what_changes_the_rows() -> None:
    op = {"name": "filter.where", "version": 1, "params": {"sql": "reward > 0"}}
    key = task_key_of(op, ["a", "b"], {"tokenizer": "t"}, 3)
    assert key == task_key_of(dict(reversed(op.items())), ("a", "b"), {"tokenizer": "t"}, 3)
    others = [
        task_key_of({**op, "version": 2}, ["a", "b"], {"tokenizer": "t"}, 3),
        task_key_of(op, ["b", "a"], {"tokenizer": "t"}, 3),
        task_key_of(op, ["a", "b"], {"tokenizer": "u"}, 3),
        task_key_of(op, ["a", "b"], {}, 3),
        task_key_of(op, ["a", "b"], {"tokenizer": "t"}, 4),
        task_key_of(op, {"x": "a", "y": "b"}, {"tokenizer": "t"}, 3),
    ]
    assert len({key, *others}) == 7


@pytest.mark.parametrize(
    "kind",
    [column.type for schema in (CHATS, PREFERENCES, SAMPLES, TOKENS) for column in schema.columns]
    + [pa.list_(pa.field("item", pa.int32(), nullable=False), 3), pa.large_list(pa.large_string()),
       pa.timestamp("us", "UTC"), pa.struct([pa.field("a", pa.list_(pa.float32()), nullable=False)])],
    ids=str,
)  # fmt: skip
def test_types_come_back(kind: pa.DataType) -> None:
    assert type_from_json(json.loads(json.dumps(type_to_json(kind)))).equals(kind)


def test_types_that_are_not_held_are_refused() -> None:
    with pytest.raises(ValueError, match="datasets hold no"):
        type_to_json(pa.dictionary(pa.int8(), pa.string()))
    deep: object = "int8"
    for _ in range(60):
        deep = {"list": {"name": "item", "type": deep, "nullable": True}}
    with pytest.raises(ValueError, match="too deep"):
        type_from_json(deep)


def test_moments_worked_by_hand() -> None:
    measured = moments(pa.array([1.0, 3.0, None, 8.0, float("nan"), float("inf")]))
    assert measured == {"count": 3, "nulls": 1, "nonfinite": 2, "mean": 4.0, "m2": 26.0, "min": 1.0, "max": 8.0}
    assert std(measured) == pytest.approx(statistics.stdev([1.0, 3.0, 8.0])) == pytest.approx(math.sqrt(26 / 2))
    assert moments(pa.array([], pa.int64())) == {"count": 0, "nulls": 0, "nonfinite": 0}
    lengths = measure(pa.table({"ids": [[1, 2], [], [3]], "text": ["a", "b", "c"]}))
    assert list(lengths) == ["ids.length"]
    assert lengths["ids.length"]["mean"] == 1.0


@pytest.mark.parametrize("parts", [[[1e200, -1e200]], [[1e200] * 2, [-1e200] * 2], [[1.0], [1e308], [-1e308]]])
def test_what_a_float_does_not_hold_is_left_out(parts: list[list[float]]) -> None:
    merged = merge_measures({"x": moments(pa.array(part, pa.float64()))} for part in parts)["x"]
    values = [value for part in parts for value in part]
    assert (merged["count"], merged["min"], merged["max"]) == (len(values), min(values), max(values))
    assert "mean" not in merged and "m2" not in merged and math.isnan(std(merged))


@given(st.lists(st.lists(st.floats(-1e6, 1e6) | st.none(), max_size=8), min_size=1, max_size=6))
def test_moments_of_parts_merge_to_those_of_the_whole(parts: list[list[float | None]]) -> None:
    whole = moments(pa.array([value for part in parts for value in part], pa.float64()))
    merged = merge_measures({"x": moments(pa.array(part, pa.float64()))} for part in parts)["x"]
    assert merged.keys() == whole.keys()
    for name, value in whole.items():
        assert merged[name] == pytest.approx(value, rel=1e-9, abs=1e-3 if name == "m2" else 1e-6)
