"""The manifest: one small JSON file whose presence, with a right checksum of itself, is what makes a folder
a dataset.

`content_digest` covers what the rows are (schema, operation, parents' digests, seed, every file's rows, bytes and
SHA-256, stats); `runtime_info` (when, how long, where, which versions) is written beside it and not
digested. `task_key` is the identity of a result before anything has run, made of the operation and
the keys of its inputs (`task_key`).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.arrowtypes import type_from_json, type_to_json
from schemas.canonical import json_digest
from schemas.errors import IntegrityError
from schemas.schema import Column, Schema
from schemas.store.storage import inside, shown
from schemas.untrusted import parsing, strict_json

MANIFEST = "_manifest.json"
FORMAT = "quiver-manifest/1"
MAX_BYTES = 256 << 20
KINDS = ("dataset", "checkpoint", "export")


@dataclass(frozen=True)
class File:
    """One file of a dataset or checkpoint: relative path, rows (0 where there are none), bytes, SHA-256 in
    hex.

    `stats` are the moments of its columns and the counts of its reasons, on their way from the writer to the
    manifest.
    """

    path: str
    rows: int
    bytes: int
    sha256: str
    stats: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Parent:
    """An input: its name in the operation, where it was, its manifest digest and its task key."""

    name: str
    url: str
    content_digest: str
    task_key: str = ""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is in a folder and where it came from. JSON values in `op`, `stats`, `facts` and `runtime_info`
    are plain.
    """

    kind: str = "dataset"
    schema: Schema | None = None
    rejected_schema: Schema | None = None
    task_key: str = ""
    op: Mapping[str, Any] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    seed: int = 0
    files: tuple[File, ...] = ()
    rejected: tuple[File, ...] = ()
    stats: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    runtime_info: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __hash__(self) -> int:
        return hash(self.content_digest)

    @property
    def num_rows(self) -> int:
        """Rows of all files, rejected rows not among them."""
        return sum(file.rows for file in self.files)

    @property
    def num_bytes(self) -> int:
        """Bytes of all files, rejected ones not among them."""
        return sum(file.bytes for file in self.files)

    @functools.cached_property
    def content_digest(self) -> str:
        """SHA-256 in hex of the content; equal for equal results, wherever and whenever they were made."""
        fields = self._fields()
        fields["parents"] = [{"name": p.name, "digest": p.content_digest, "key": p.task_key} for p in self.parents]
        return json_digest(fields)

    def to_bytes(self) -> bytes:
        """The file, with its own checksum."""
        body = {
            "quiver": FORMAT,
            "content": self._fields(),
            "runtime_info": dict(self.runtime_info),
            "digest": self.content_digest,
        }
        return (json.dumps({**body, "checksum": json_digest(body)}, indent=1, allow_nan=False) + "\n").encode()

    @staticmethod
    def from_bytes(data: bytes, where: str) -> Manifest:
        """Read a manifest from anywhere; `IntegrityError` unless it is whole, well-formed and names only its
        own files.
        """
        with parsing(lambda words: _torn("manifest-malformed", where, "the fields of a manifest", words)):
            return _whole(_parse(data, where), where)

    def _fields(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "schema": schema_to_json(self.schema),
            "rejected_schema": schema_to_json(self.rejected_schema),
            "key": self.task_key,
            "op": dict(self.op),
            "parents": [
                {"name": p.name, "url": p.url, "digest": p.content_digest, "key": p.task_key} for p in self.parents
            ],
            "seed": self.seed,
            "files": [_file_to_json(file) for file in self.files],
            "rejected": [_file_to_json(file) for file in self.rejected],
            "stats": dict(self.stats),
            "facts": dict(self.facts),
        }


def _whole(body: dict[str, Any], where: str) -> Manifest:
    """The manifest in `body`, whose checksum, digest and file names are looked at."""
    if body.get("quiver") != FORMAT:
        raise _torn("manifest-format", where, FORMAT, body.get("quiver"))
    checksum = body.pop("checksum", None)
    if checksum != json_digest(body):
        raise _torn("manifest-torn", where, json_digest(body), checksum)
    manifest = _from_fields(body["content"], body["runtime_info"])
    paths = [inside(file.path, where) for file in (*manifest.files, *manifest.rejected)]
    if len(set(paths)) != len(paths):
        raise _torn("manifest-malformed", where, "every file once", "a file named twice")
    if manifest.content_digest != body["digest"]:
        raise _torn("manifest-torn", where, manifest.content_digest, body["digest"])
    return manifest


def task_key_of(
    op: Mapping[str, Any], inputs: Iterable[str] | Mapping[str, str], resources: Mapping[str, str], seed: int
) -> str:
    """The identity of a result, known before anything runs: SHA-256 in hex over operation, keys of inputs,
    resources, seed.

    `op` is {"name", "version", "params"}; `inputs` are task keys, in order or by name.
    """
    keys = dict(inputs) if isinstance(inputs, Mapping) else list(inputs)
    return json_digest({"op": dict(op), "inputs": keys, "resources": dict(resources), "seed": seed})


def schema_to_json(schema: Schema | None) -> dict[str, Any] | None:
    """The columns of a manifest as plain JSON, their Arrow types among it."""
    if schema is None:
        return None
    plain = schema.to_json()
    for column, entry in zip(schema.columns, plain["columns"], strict=True):
        entry["type"] = type_to_json(column.type)
    return plain


def schema_from_json(data: Any) -> Schema | None:
    """Inverse of `schema_to_json`, for what anybody may have written: an exception of any class for anything else."""
    if data is None:
        return None
    columns = tuple(
        Column(
            _text(c["name"]),
            type_from_json(c["type"]),
            _text(c["meaning"]),
            bool(c["nullable"]),
            bool(c["finite"]),
        )
        for c in data["columns"]
    )
    names, key = [column.name for column in columns], tuple(_text(name) for name in data["key"])
    if len(set(names)) != len(names) or not set(key) <= set(names):
        raise ValueError("a schema's columns or key")
    return Schema(_text(data["name"]), _count(data["version"]), columns, key)


def _file_to_json(file: File) -> dict[str, Any]:
    return {"path": file.path, "rows": file.rows, "bytes": file.bytes, "sha256": file.sha256}


def _file_from_json(data: Any) -> File:
    sha256 = _text(data["sha256"])
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise ValueError("a SHA-256")
    return File(_text(data["path"]), _count(data["rows"]), _count(data["bytes"]), sha256)


def _from_fields(fields: Mapping[str, Any], runtime_info: Mapping[str, Any]) -> Manifest:
    if fields["kind"] not in KINDS:
        raise ValueError(f"kind {shown(fields['kind'])}")
    if not isinstance(fields["seed"], int) or not isinstance(runtime_info, dict):
        raise TypeError("seed or runtime_info")
    for name in ("op", "stats", "facts"):
        if not isinstance(fields[name], dict):
            raise TypeError(name)
    for name in ("parents", "files", "rejected"):
        if not isinstance(fields[name], list):
            raise TypeError(name)
    schema = schema_from_json(fields["schema"])
    if fields["kind"] == "dataset" and schema is None:
        raise ValueError("a dataset without a schema")
    return Manifest(
        kind=fields["kind"],
        schema=schema,
        rejected_schema=schema_from_json(fields["rejected_schema"]),
        task_key=_text(fields["key"]),
        op=fields["op"],
        parents=tuple(
            Parent(_text(p["name"]), _text(p["url"]), _text(p["digest"]), _text(p["key"])) for p in fields["parents"]
        ),
        seed=fields["seed"],
        files=tuple(_file_from_json(file) for file in fields["files"]),
        rejected=tuple(_file_from_json(file) for file in fields["rejected"]),
        stats=fields["stats"],
        facts=fields["facts"],
        runtime_info=runtime_info,
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{shown(value)} is no text")
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{shown(value)} is no count")
    return value


def _parse(data: bytes, where: str) -> dict[str, Any]:
    with parsing(lambda words: _torn("manifest-torn", where, "JSON", f"{len(data)} bytes: {words}")):
        body = strict_json(data)
    if not isinstance(body, dict):
        raise _torn("manifest-torn", where, "a JSON object", type(body).__name__)
    return body


def _torn(slug: str, where: str, expected: object, actual: object) -> IntegrityError:
    return IntegrityError(
        slug,
        f"the manifest of {shown(where)} cannot be trusted",
        expected=shown(expected),
        found=shown(actual),
        where=shown(where),
        kept="all files; nothing was changed",
        next=f"remove {shown(where)}/{MANIFEST} and run the task again, or copy the dataset again",
    )
