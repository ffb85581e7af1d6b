"""One test for each threat of the checklist, S01 to S28; what has no place here yet is skipped with the reason."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datakit.duck.session import CONFIG, LOCKS
from datakit.sql import Predicate
from datakit.templating import sandbox
from datakit.templating.sandbox import Conversation, Sandbox
from schemas import Column, Schema
from schemas.errors import DataError, IntegrityError, QuiverError
from schemas.manifest import File, Manifest
from schemas.nemo.archive import Piece
from schemas.store.storage import PROTOCOLS, normal, shown
from tests.conftest import ROOT

PACKAGES = ("schemas", "datakit", "trainers", "pipelines", "quiver")
CODE = [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
ROWS = Schema("rows", 1, (Column("text", pa.string(), ""),))
Row = Callable[[Path], object]


def s01_pickle(folder: Path) -> None:
    """Nothing but three vetted readers unpickles; they refuse what is no index, no tensors, no packed sequence."""
    from datakit.io import Npy
    from datakit.op import Context
    from trainers.engine.checkpoint.safe_unpickle import INDEX, read_index
    from trainers.engine.checkpoint.torch_file import TorchFile

    canary = folder / "canary"

    class Hostile:
        def __reduce__(self):
            return os.system, (f"touch {canary}",)

    (folder / INDEX).write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(IntegrityError):
        read_index(str(folder))
    with zipfile.ZipFile(folder / "weights.ckpt", "w") as zipped:
        zipped.writestr("a/data.pkl", pickle.dumps(Hostile()))
    with pytest.raises(IntegrityError):
        TorchFile(Piece(str(folder / "weights.ckpt"), 0, (folder / "weights.ckpt").stat().st_size), "weights.ckpt")
    items = np.empty(1, object)
    items[0] = {"input_ids": Hostile()}
    np.save(folder / "packs.npy", items, allow_pickle=True)
    with pytest.raises(IntegrityError):
        list(Npy(files=(str(folder / "packs.npy"),), format="packed_sft").read(Context()))
    assert not canary.exists()


def s02_safetensors_header(folder: Path) -> None:
    from trainers.engine.weights.tensorfile import TensorFile

    entry = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    overlap = {
        "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
        "b": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]},
    }
    texts = [json.dumps({"a": entry}), json.dumps(overlap), '{"a": {}, "a": {}}', "[" * 10_000]
    for number, text in enumerate(texts):
        path = folder / f"{number}.safetensors"
        path.write_bytes(struct.pack("<Q", len(text)) + text.encode() + bytes(8))
        with pytest.raises(DataError):
            TensorFile(str(path))
    (folder / "long.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    with pytest.raises(DataError):
        TensorFile(str(folder / "long.safetensors"))


def s05_remote_code(folder: Path) -> None:
    from trainers.engine.weights.registry import of_config

    data = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "auto_map": {"AutoModel": "x.Y"}}
    with pytest.raises(QuiverError, match="auto_map"):
        of_config(data, str(folder)).model(data, str(folder))


def s06_template_injection(folder: Path) -> None:
    canary = folder / "canary"
    texts = [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch %s') }}" % canary,  # noqa: UP031
        "{% include '/etc/passwd' %}",
        "{{ self.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
    ]
    for text in texts:
        sandbox = Sandbox(text)
        try:
            [answer] = sandbox.render([Conversation(("user",), ("hi",))])
            assert answer.fault or "root:" not in answer.text
            assert "subclass" not in answer.text and "module" not in answer.text
        except DataError:
            pass
        finally:
            sandbox.close()
    assert not canary.exists()


def s08_user_sql(folder: Path) -> None:
    for text in (
        "read_text('/etc/passwd') IS NULL",
        "text IN (FROM glob('/*'))",
        "random() > 0",
        "getenv('HOME') = ''",
    ):
        with pytest.raises(QuiverError):
            Predicate.of(text, ROWS)


def s09_crafted_parquet(folder: Path) -> None:
    from datakit.io import Parquet
    from datakit.op import Context

    (folder / "x.parquet").write_bytes(b"PAR1" + b"\xff" * 64 + b"\x40\x00\x00\x00PAR1")
    with pytest.raises(DataError):
        list(Parquet(files=(str(folder / "x.parquet"),), format="completions").read(Context()))


def s12_addresses(folder: Path) -> None:
    for url in ("http://169.254.169.254/", "file::memory:", "simplecache::file:///etc/passwd", "data:,x", "zip://x::http://y",
                "ftp://h/x", "http://[::1]/", "github://a:b@/x", "s3://u:p@h/x", "filecache::s3://b/x"):  # fmt: skip
        with pytest.raises(QuiverError):
            normal(url)
    assert frozenset(PROTOCOLS) <= {"file", "s3", "memory", "gs", "gcs", "abfs", "abfss", "az"}


def s16_graders(folder: Path) -> None:
    """No evaluation of text anywhere in the code."""
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = node.func if isinstance(node, ast.Call) else None
            assert not (isinstance(called, ast.Name) and called.id in ("eval", "exec")), path


def s18_secrets(folder: Path) -> None:
    assert "secret" not in shown("s3://user:secret@host/x?token=secret and https://a:secret@b")


def s19_terminal(folder: Path) -> None:
    text = DataError("x", "a\x1b[2J\u202e\r", where="\x9b\u2028").render()
    assert not re.search("[\x1b\u202e\r\x9b\u2028]", text)


def s22_names(folder: Path) -> None:
    for name in ("../x", "/etc/passwd", "a/../../b", "a\x00b", "", ".", "a//b", "x\\y", "a\nb", "~/x"):
        with pytest.raises(IntegrityError):
            Manifest.from_bytes(Manifest(files=(File(name, 1, 1, "0" * 64),)).to_bytes(), str(folder))


def s25_regular_expressions(folder: Path) -> None:
    started = time.monotonic()
    rows = pa.table({"text": ["a" * 50_000 + "b"]})
    assert Predicate.of("regexp_matches(text, '^(a+)+$')", ROWS).values(rows).to_pylist() == [False]
    assert time.monotonic() - started < 10


def s26_import_time_network(folder: Path) -> None:
    code = ("import socket\ndef no(*a, **k): raise SystemExit('network')\nsocket.socket.connect = no\n"
            f"socket.getaddrinfo = no\nimport {', '.join(PACKAGES)}\n")  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def s28_defaults(folder: Path) -> None:
    """The golden list: a change here is a change of what outside data may do."""
    assert {
        "duckdb": CONFIG,
        "locks": list(LOCKS),
        "protocols": sorted(PROTOCOLS),
        "template memory": sandbox.MEMORY,
        "template seconds": sandbox.SECONDS,
        "template output": sandbox.OUTPUT,
    } == json.loads(Path(__file__).with_name("defaults.json").read_text(encoding="utf-8"))


ROWS_TESTED: dict[str, Row] = {
    "S01": s01_pickle, "S02": s02_safetensors_header, "S05": s05_remote_code, "S06": s06_template_injection,
    "S08": s08_user_sql, "S09": s09_crafted_parquet, "S12": s12_addresses, "S16": s16_graders, "S18": s18_secrets,
    "S19": s19_terminal, "S22": s22_names, "S25": s25_regular_expressions, "S26": s26_import_time_network,
    "S28": s28_defaults,
}  # fmt: skip

TESTED_BY: dict[str, tuple[str, ...]] = {
    "S03": (
        "tests/security/test_nemo_archives.py::test_an_archive_that_can_be_meant_in_two_ways_is_refused",
        "tests/security/test_nemo_archives.py::test_a_pack_that_grows_beyond_measure_is_stopped_and_leaves_nothing",
        "tests/security/test_nemo_archives.py::test_a_pack_lies_in_a_private_file_while_it_is_read",
    ),
    "S04": ("tests/security/test_nemo_archives.py::test_settings_that_are_more_than_values_are_refused",),
    "S07": (
        "tests/datakit/tokenize/test_tokenizer.py::test_no_control_token_comes_out_of_any_content",
        "tests/datakit/tokenize/test_tokenizer.py::test_no_control_token_comes_out_of_any_content_of_a_trained_vocabulary",
        "tests/datakit/template/test_chat.py::test_contents_are_never_special_and_everything_else_is",
    ),
    "S10": (
        "tests/datakit/sql/test_replies.py::test_a_mutated_reply_has_a_name_and_the_next_statement_runs",
        "tests/datakit/template/test_replies.py::test_what_is_not_has_a_name",
        "tests/datakit/io/test_replies.py::test_what_is_not_has_a_name",
        "tests/security/test_parse_borders.py::test_owner_and_kept_chunk",
        "tests/security/test_parse_borders.py::test_a_kept_chunk_with_a_right_digest_and_no_arrow_stream_is_worked_out_again",
    ),
    "S11": (
        "tests/datakit/io/test_layouts.py::test_what_expands_beyond_the_cap_is_refused",
        "tests/datakit/io/test_jsonl.py::test_a_gzip_bomb_is_stopped",
        "tests/datakit/io/test_arrow.py::test_columns_that_expand_beyond_the_cap_are_refused",
    ),
    "S14": (
        "tests/pipelines/serve/test_refusals.py::test_nobody_asks_without_the_token_by_another_name_or_with_too_much",
        "tests/pipelines/serve/test_refusals.py::test_more_than_the_queue_holds_is_turned_away_and_nobody_else",
        "tests/pipelines/serve/test_refusals.py::test_requests_at_random_meet_no_fault_of_ours",
        "tests/pipelines/serve/test_command.py::test_another_host_and_a_token_that_others_read_are_refused",
        "tests/pipelines/serve/test_command.py::test_a_server_is_reached_from_this_machine_alone_and_ends_with_a_signal",
    ),
    "S15": (
        "tests/datakit/clients/test_http_faults.py::test_what_goes_by_costs_no_answer",
        "tests/datakit/clients/test_http_faults.py::test_what_is_no_answer_is_set_aside_in_the_servers_words",
        "tests/datakit/clients/test_http_faults.py::test_what_is_the_same_for_every_request_stops_the_run_and_the_next_one_goes_on",
        "tests/datakit/clients/test_http_faults.py::test_what_steers_a_terminal_is_text_like_any_other",
    ),
    "S17": (
        "tests/datakit/judging/test_asking.py::test_no_answer_leaves_its_fence",
        "tests/datakit/judging/test_asking.py::test_a_mark_of_one_row_opens_no_fence_of_another",
        "tests/datakit/judging/test_reading.py::test_what_is_none",
    ),
    "S20": (
        "tests/pipelines/test_page.py::test_hostile_rows_are_inert",
        "tests/pipelines/test_page.py::test_a_page_allows_its_own_script_alone_and_asks_nobody",
        "tests/pipelines/test_page.py::test_nothing_of_a_hostile_page_runs_or_leaves_in_a_browser",
    ),
    "S21": ("tests/quiver/test_workspace_commands.py::test_no_text_is_a_formula_in_csv",),
    "S23": (
        "tests/pipelines/test_flags_file.py::test_a_hostile_file_is_refused_before_it_costs_anything",
        "tests/pipelines/test_flags_file.py::test_what_a_tag_names_is_not_made",
    ),
    "S24": (
        "tests/security/test_planted_links.py::test_a_link_at_a_known_name_is_replaced_and_its_victim_stays",
        "tests/security/test_planted_links.py::test_a_linked_folder_of_a_run_is_not_written_into",
        "tests/security/test_planted_links.py::test_folders_of_a_run_are_0700_and_files_follow_the_umask",
    ),
}
"""Threats whose tests stand with the code that they try."""

ELSEWHERE = {
    "S13": "no scheduler is started; luigid is the user's own",
    "S27": "nothing is downloaded",
}


@pytest.mark.parametrize("row", [f"S{number:02d}" for number in range(1, 29)])
def test_threat(row, tmp_path):
    for file, _, name in (place.partition("::") for place in TESTED_BY.get(row, ())):
        body = ast.parse((ROOT / file).read_text(encoding="utf-8")).body
        assert name in {node.name for node in body if isinstance(node, ast.FunctionDef)}, (row, name)
    if row in TESTED_BY:
        return
    if row in ELSEWHERE:
        pytest.skip(ELSEWHERE[row])
    ROWS_TESTED[row](tmp_path)
