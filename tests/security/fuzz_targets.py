"""What is fuzzed: each parser of outside input with valid seeds of our own making."""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq

from datakit.formats import parquet_worker
from datakit.io import Jsonl, Parquet, parquet
from datakit.op import Context
from datakit.sql import Predicate, Query
from datakit.templating import jinja_worker, sandbox
from datakit.templating.sandbox import OUTPUT, Conversation, Sandbox
from datakit.tokenizers.hf_files import row_in
from schemas import Column, Schema
from schemas.errors import DataError
from schemas.manifest import File, Manifest
from schemas.store.owner import Owner

Parse = Callable[[bytes, str], object]
"""Parses bytes; the folder is for those that want a file."""

ROWS = Schema("rows", 1, (Column("id", pa.string(), ""), Column("reward", pa.float64(), "")), key=("id",))
_MOST_SEED_BYTES = 1 << 16
_OWNER = Owner("host", "boot", "pid:[1]", 7, "8", "9")


@dataclass(frozen=True)
class Target:
    """One parser: how it is called, what is mutated, and how many inputs one child is given.

    Where `parse` starts a process for every input, `here` does that process's work in the fuzzer's own child: a share
    of the inputs, and whatever a limit would stop, goes through `parse` too.
    """

    parse: Parse
    seeds: tuple[bytes, ...]
    batch: int = 50
    here: Parse | None = None


def targets(data: str = "") -> dict[str, Target]:
    """All of them by name, with files of the folder `data` among the seeds."""
    seeds = _seeds()
    for name, pattern in _PATTERNS.items():
        if data:
            files = [path for path in sorted(Path(data).rglob(pattern)) if path.is_file() and not path.is_symlink()]
            seeds[name] += tuple(path.read_bytes()[:_MOST_SEED_BYTES] for path in files[:20] if path.stat().st_size)
    sizes = {"predicate": 20, "query": 20, "template": 200, "rows-parquet": 200}
    return {name: Target(parse, seeds[name], sizes.get(name, 50), _HERE.get(name)) for name, parse in _PARSES.items()}


_PATTERNS = {
    "rows-jsonl": "*.jsonl",
    "rows-csv": "*.csv",
    "rows-parquet": "*.parquet",
    "config": "config.json",
    "tokenizer": "tokenizer.json",
    "sentencepiece": "*.model",
    "template": "*.jinja",
}


_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 8,
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "rope_theta": 1e4,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 2.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "max_position_embeddings": 64,
}
_RUN = {
    "algorithm": "sft",
    "data": "d",
    "out": "o",
    "seed": 1,
    "epochs": 1,
    "global_batch_size": 4,
    "model": {
        "num_layers": 1,
        "hidden_size": 8,
        "ffn_hidden_size": 16,
        "num_attention_heads": 2,
        "num_query_groups": 1,
        "vocab_size": 8,
        "max_sequence_length": 32,
    },
    "optim": {"lr": 1e-3},
}


def _seeds() -> dict[str, tuple[bytes, ...]]:
    """Valid inputs of every parser."""
    plain = json.dumps
    rows = [{"prompt": "1+1?", "response": "2", "reward": 0.5}, {"prompt": "é", "response": "x\ny", "source": "s"}]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"prompt": ["a", "b"], "response": ["c", "d"]}), sink)
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], "unk_token": None}
    tokenizer = {"version": "1.0", "added_tokens": [], "model": model, "normalizer": None, "pre_tokenizer": None}
    header = plain({"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}, "__metadata__": {}}).encode()
    tensors = len(header).to_bytes(8, "little") + header + bytes(16)
    index = {"metadata": {"total_size": 16}, "weight_map": {"w": "model-00001-of-00001.safetensors"}}
    manifest = Manifest(
        schema=ROWS, task_key="k", op={"name": "x", "params": {}}, files=(File("part-0.parquet", 2, 9, "0" * 64),)
    )
    return {
        "rows-jsonl": (
            "\n".join(map(plain, rows)).encode(),
            plain(rows).encode(),
            b'{"prompt": "a", "response": "b"}\n' * 9,
        ),
        "rows-csv": (b'prompt,response\na,"b\n""c"""\nd,e\n', "prompt\tresponse\nü\tz\n".encode()),
        "rows-parquet": (bytes(sink.getvalue()),),
        "manifest": (manifest.to_bytes(),),
        "owner": (_OWNER.to_bytes(),),
        "config": (plain(_LLAMA).encode(),),
        "tokenizer": (plain(tokenizer).encode(),),
        "sentencepiece": (
            b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02\x0a\x08\x0a\x01a\x15\x00\x00\x80\xbf\x12\x02\x18\x01",
        ),
        "template": (b"{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", b"{{ bos }}{% set x = 1 %}"),
        "predicate": (
            b"reward > 0.5 AND length(id) < 3",
            b"id LIKE 'a%' OR reward IN (1, 2)",
            b"TRY_CAST(id AS INT) IS NULL",
        ),
        "query": (
            b"SELECT id, sum(reward) AS r FROM rows GROUP BY ALL ORDER BY id LIMIT 3",
            b"WITH a AS (FROM rows) SELECT a.id FROM a JOIN rows USING (id)",
        ),
        "run": (plain(_RUN).encode(),),
        "safetensors": (tensors,),
        "torch-index": (plain(index).encode(),),
        **_nemo_seeds(),
    }


def _nemo_seeds() -> dict[str, tuple[bytes, ...]]:
    import torch

    tar, weights = io.BytesIO(), io.BytesIO()
    settings = b"num_layers: 2\nhidden_size: 8\nnum_attention_heads: 2\nencoder_seq_length: 16\nbias: false\n"
    settings += b"layernorm_epsilon: 1e-05\nactivation: swiglu\nposition_embedding_type: rope\nwindow_size: [4, 0]\n"
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in (("./model_config.yaml", settings), ("./" + "n" * 120, b"x" * 600)):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(data), 1.5
            archive.addfile(member, io.BytesIO(data))
    torch.save({"a": torch.ones(2, 3), "b": torch.ones(6, dtype=torch.bfloat16)[2:4], "c": None}, weights)
    return {
        "nemo": (tar.getvalue(), gzip.compress(tar.getvalue())),
        "nemo-settings": (settings, settings + b'target: a.MegatronGPTModel\ntokenizer: {model: "nemo:x"}\n'),
        "torch-file": (weights.getvalue(),),
    }


def _file(data: bytes, folder: str, name: str) -> str:
    path = os.path.join(folder, name)
    with open(path, "wb") as file:
        file.write(data)
    return path


def _jsonl(data: bytes, folder: str) -> None:
    for _ in Jsonl(files=(_file(data, folder, "rows.jsonl"),), format="completions").read(Context(seed=0, shard=0)):
        pass


def _csv(data: bytes, folder: str) -> None:
    for _ in Jsonl(files=(_file(data, folder, "rows.csv"),), format="completions").read(Context(seed=0, shard=0)):
        pass


def _parquet(data: bytes, folder: str) -> None:
    for _ in Parquet(files=(_file(data, folder, "rows.parquet"),), format="completions").read(Context(seed=0, shard=0)):
        pass


def _config(data: bytes, folder: str) -> None:
    from trainers.engine.weights.registry import of_config

    settings = _object(data, folder, "config.json")
    of_config(settings, folder).model(settings, folder)


def _object(data: bytes, folder: str, name: str) -> dict[str, Any]:
    from trainers.engine.weights.folder import read_object

    _file(data, folder, name)
    return read_object(folder, name)


def _tokenizer(data: bytes, folder: str) -> None:
    from trainers.engine.weights.tokenizer import opened

    opened(str(row_in({"tokenizer.json": data}, folder)["tokenizer_json"]), folder)


def _sentencepiece(data: bytes, folder: str) -> None:
    from trainers.engine.weights.tokenizer import opened

    opened(str(row_in({"tokenizer.model": data}, folder)["tokenizer_json"]), folder)


def _template(data: bytes, folder: str) -> None:
    asked = Sandbox(os.fsdecode(data), {"bos": "<s>"})
    try:
        asked.render([Conversation.of(("user",), ("hi",)), Conversation.of(("user",), ("hi",), traced=True)])
    finally:
        asked.close()


def _template_here(data: bytes, folder: str) -> None:
    """What the renderer's process does with a template, and what is made of its answers."""
    try:
        templates = jinja_worker.compiled(os.fsdecode(data), None)
    except Exception as fault:  # as the process itself does
        raise DataError("template-syntax", str(fault)) from fault
    for template in templates:
        item = Conversation.of(("user",), ("hi",), traced=template is templates[1])
        answer = jinja_worker.rendered(template, json.loads(json.dumps(vars(item))), {"bos": "<s>"}, OUTPUT)
        sandbox._rendered(json.loads(json.dumps(answer)))


def _parquet_here(data: bytes, folder: str) -> None:
    """What the reader's process does with a file, and what is made of its answers."""
    with patch.object(parquet, "batches", _batches_here):
        _parquet(data, folder)


def _batches_here(url: str, sha256: str, columns: list[str], kind: str) -> Iterator[pa.Table]:
    sink = io.BytesIO()
    request = {"path": url, "columns": columns, "rows": 4096, "memory": 0, "most": 1 << 26}
    if parquet_worker.answer(request, sink):
        raise DataError("broken-parquet", "not a sound file")
    with pa.ipc.open_stream(sink.getvalue()) as stream:
        for batch in stream:
            yield pa.Table.from_batches([batch])


def _owner(data: bytes, folder: str) -> None:
    """An owner is what JSON says it is, field by field; who is refused does not say that much."""
    owner = Owner.from_bytes(data)
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError):
        fields = None
    named = isinstance(fields, dict) and vars(_OWNER).keys() <= fields.keys()
    kinds = named and all(type(fields[name]) is (int if name == "pid" else str) for name in vars(_OWNER))
    whole = kinds and 0 < fields["pid"] < 1 << 32
    assert (owner is not None) == bool(whole), f"{owner} of {fields}"
    if owner is None:
        raise DataError("no-owner", "not the bytes of an owner")
    assert vars(owner) == {name: fields[name] for name in vars(owner)}
    assert Owner.from_bytes(owner.to_bytes()) == owner


def _predicate(data: bytes, folder: str) -> None:
    Predicate.of(os.fsdecode(data), ROWS).values(pa.table({"id": ["a", "b"], "reward": [0.0, 1.0]}))


def _query(data: bytes, folder: str) -> None:
    Query(tables=("rows",), query=os.fsdecode(data)).gives(ROWS)


def _run(data: bytes, folder: str) -> None:
    from trainers.config import read

    read(_file(data, folder, "run.json"))


def _safetensors(data: bytes, folder: str) -> None:
    from trainers.engine.weights.tensorfile import TensorFile

    file = TensorFile(_file(data, folder, "model.safetensors"))
    for name in file.entries:
        file.read(name)


def _torch_index(data: bytes, folder: str) -> None:
    from trainers.engine.weights.folder import CONFIG, INDEX, Folder

    place = os.path.join(folder, "indexed")
    os.makedirs(place, exist_ok=True)
    _file(b"{}", place, CONFIG)
    _file(_seeds()["safetensors"][0], place, "model-00001-of-00001.safetensors")
    _file(data, place, INDEX)
    Folder(place)


def _nemo(data: bytes, folder: str) -> None:
    from schemas.nemo.archive import Archive

    with Archive(_file(data, folder, "m.nemo")) as archive:
        for piece in archive.pieces.values():
            piece.read_into(memoryview(bytearray(piece.size)), 0)


def _nemo_settings(data: bytes, folder: str) -> None:
    from schemas.nemo.model import settings_in
    from trainers.engine.weights.nemo.settings import model_of

    model_of(settings_in({"model_config.yaml": data}, folder), folder, 43)


def _torch_file(data: bytes, folder: str) -> None:
    from schemas.nemo.archive import Piece
    from trainers.engine.checkpoint.torch_file import TorchFile

    file = TorchFile(Piece(_file(data, folder, "weights.ckpt"), 0, len(data)), "weights.ckpt")
    for tensor in file.tensors.values():
        if math.prod(tensor.shape) < 1 << 20:
            tensor.read()


_PARSES: dict[str, Parse] = {
    "rows-jsonl": _jsonl,
    "rows-csv": _csv,
    "rows-parquet": _parquet,
    "manifest": Manifest.from_bytes,
    "owner": _owner,
    "config": _config,
    "tokenizer": _tokenizer,
    "sentencepiece": _sentencepiece,
    "template": _template,
    "predicate": _predicate,
    "query": _query,
    "run": _run,
    "safetensors": _safetensors,
    "torch-index": _torch_index,
    "nemo": _nemo,
    "nemo-settings": _nemo_settings,
    "torch-file": _torch_file,
}

_HERE: dict[str, Parse] = {"template": _template_here, "rows-parquet": _parquet_here}
