"""One border for each kind of outside file: whatever stands in it, an error with a name comes out, no traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datakit.clients.python import imported
from datakit.formats.layouts import json_layout
from datakit.io import Jsonl
from datakit.op import Context
from datakit.run.chunks import _unpacked
from datakit.tokenizers.hf_files import row_in
from schemas.errors import ConfigError, DataError, IntegrityError, QuiverError
from schemas.manifest import Manifest
from schemas.store.owner import Owner
from schemas.untrusted import parsing, strict_json
from trainers.config import read_json
from trainers.engine.weights.folder import read_object
from trainers.engine.weights.tensorfile import TensorFile
from trainers.engine.weights.tokenizer import opened

DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000
HOSTILE = {
    "deep object": DEEP,
    "deep list": b"[" * 100_000,
    "400 digits": b'{"seed": 1' + b"0" * 400 + b"}",
    "5000 digits": b'{"seed": 1' + b"0" * 5000 + b"}",
    "too large": b'{"seed": 1e999}',
    "constant": b'{"seed": NaN}',
    "latin-1": b'{"a": "\xff\xfe"}',
    "utf-16": '{"a": 1}'.encode("utf-16"),
    "surrogate": b'{"\\ud800": "\\udfff"}',
    "twice": b'{"a": 1, "a": 2}',
    "many twice": b"{" + b",".join(b'"k%d":1' % (i % 20_000) for i in range(40_000)) + b"}",
    "null": b"null",
    "number": b"7",
    "text": b'"quiver"',
    "list": b"[1, [2]]",
    "empty": b"",
    "NUL": b"\x00" * 64,
    "wrong inside": b'{"quiver": ["x"], "content": 3, "host": {}, "pid": [], "model_type": {}, "architectures": 1}',
}
each = pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)


@each
def test_manifest(data):
    with pytest.raises(IntegrityError):
        Manifest.from_bytes(data, "/data")


@pytest.mark.parametrize(
    "value", ["1e999", "1" + "0" * 5000, "[" * 900 + "]" * 900, '"\\ud800"', "-1", "null", '{"a": []}']
)
@pytest.mark.parametrize(
    "key", ["kind", "schema", "key", "op", "parents", "seed", "files", "rejected", "stats", "facts"]
)
def test_manifest_with_a_right_checksum_and_a_wrong_field(key, value):
    """The checksum is no secret: whoever writes the manifest can make it right."""
    import hashlib

    body = json.loads(Manifest(op={"name": "x"}).to_bytes())
    del body["checksum"]
    try:
        body["content"][key] = json.loads(value)
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
        body["checksum"] = hashlib.sha256(text.encode()).hexdigest()
        data = json.dumps(body).encode()
    except (ValueError, RecursionError):
        data = json.dumps(body).replace('"seed": 0', f'"seed": {value}').encode()
    try:
        Manifest.from_bytes(data, "/data")
    except IntegrityError as error:
        assert error.slug.startswith("manifest-")  # noqa: PT017  (some values are fine for some keys)


@each
def test_owner_and_kept_chunk(data):
    assert Owner.from_bytes(data) is None
    assert _unpacked(data, "key", "source") is None


def test_a_kept_chunk_with_a_right_digest_and_no_arrow_stream_is_worked_out_again():
    import hashlib

    for body in (b"", b"x" * 100, b"\xff\xff\xff\xff" + (1 << 30).to_bytes(4, "little") + b"y" * 64):
        header = {
            "key": "k",
            "source": "s",
            "sizes": [len(body), 0],
            "counts": {},
            "sha256": hashlib.sha256(body).hexdigest(),
        }
        assert _unpacked(json.dumps(header).encode() + b"\n" + body, "k", "s") is None


@each
def test_run_configuration_and_model_settings(data, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(data)
    for read, kinds in (
        (lambda: read_json(path), ConfigError),
        (lambda: read_object(str(tmp_path), "config.json"), DataError),
    ):
        try:
            read()
        except kinds as error:
            assert "config.json" in str(error)  # noqa: PT017  (what is JSON passes on to the checks of its fields)
    from trainers.config import read as read_run

    with pytest.raises(ConfigError):
        read_run(path)


@each
def test_safetensors_header(data, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(data).to_bytes(8, "little") + data)
    with pytest.raises(DataError):
        TensorFile(str(path))


@pytest.mark.parametrize("shape", [[10**4000 - 1, 0], [1 << 63, 0], [0] * 65], ids=["4000 digits", "2^63", "65"])
def test_safetensors_header_with_a_shape_that_no_tensor_has(shape, tmp_path):
    """Nothing is multiplied by sizes that are not bounded: many of them took time that grows with their square."""
    path = tmp_path / "model.safetensors"
    text = json.dumps({"a": {"dtype": "U8", "shape": shape, "data_offsets": [0, 0]}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(DataError, match="an entry"):
        TensorFile(str(path))


@each
def test_tokenizer_files(data):
    for name in ("tokenizer.json", "tokenizer.model", "vocab.json"):
        files = {name: data, "merges.txt": b"a b"} if name == "vocab.json" else {name: data}
        with pytest.raises(QuiverError):
            opened(str(row_in(files, "/folder")["tokenizer_json"]), "/folder")


@pytest.mark.parametrize("text", [b"def score(:", b"# \xff\nx = 1", b"1/0", b"raise RecursionError", b"import nowhere"])
def test_reward_file(text, tmp_path, monkeypatch):
    name = f"reward_{abs(hash(text))}"
    Path(tmp_path, f"{name}.py").write_bytes(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        imported(f"{name}:score")
    assert caught.value.slug == "no-function"


def test_a_panic_of_a_rust_library_is_a_fault_of_the_bytes():
    import polars

    class PanicException(BaseException):
        pass

    for panic in (PanicException("index out of bounds"), polars.exceptions.PanicException("index out of bounds")):
        with pytest.raises(DataError, match="index out of bounds"), parsing(lambda words: DataError("x", words)):
            raise panic
    with pytest.raises(KeyboardInterrupt), parsing(lambda words: DataError("x", words)):
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match="too large"):
        strict_json("[1e999]")


@pytest.mark.parametrize("before", ["[", '{"version": N, "rows": ['], ids=["a list", "a list in an object"])
def test_numbers_beyond_pythons_limit_in_a_list_of_rows(before, tmp_path):
    number = "9" * 5000
    row = '{"prompt": "a", "response": "b", "x": N}'
    text = before + f"{row}, {row}]" + ("}" if before.startswith("{") else "")
    (tmp_path / "rows.json").write_text(text.replace("N", number))
    reader = Jsonl(files=(str(tmp_path / "rows.json"),), format="completions")
    rejected = [
        row for made in reader.read(Context()) if made.rejected is not None for row in made.rejected.to_pylist()
    ]
    assert [row["threshold"] for row in rejected] == ["numbers of at most 4,300 digits"] * 2


def test_a_number_beyond_pythons_limit_does_not_decide_what_a_file_is():
    row = '{"id": N, "extra": [{"a": 1}], "prompt": "a", "response": "b"}'
    for number in ("7", "9" * 5000):
        assert json_layout(row.replace("N", number).encode(), True, ("prompt", "response")) == ("lines", "")
