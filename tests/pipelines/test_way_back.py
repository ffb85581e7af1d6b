"""The way back that an export names is flags of `Import`, and reads its file to the same rows."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from datakit.apply import apply
from datakit.formats.exports.write import export
from datakit.io import Jsonl
from pipelines.commands.stages import Import
from tests.datakit.formats.test_exports import imported

PAIR = {"prompt": "Say it.", "chosen": "It.", "rejected": "No."}


@pytest.mark.parametrize("name", ["nemo_aligner.dpo_text", "nemo_aligner.dpo", "trl.preference"])
def test_the_flags_that_an_export_prints_read_its_file_to_the_same_pairs(name: str, tmp_path: Path) -> None:
    pairs = imported([PAIR], "preferences", tmp_path)
    written = export(pairs, name, str(tmp_path / "out.jsonl"))
    words = shlex.split(str(written).partition("by Import ")[2].splitlines()[0])
    flags = dict(zip(words[::2], words[1::2], strict=True))
    assert {flag.removeprefix("--") for flag in flags} <= {param for param, _ in Import.get_params()}
    settings = {flag.removeprefix("--"): value for flag, value in flags.items() if flag != "--params"}
    settings |= json.loads(flags.get("--params", "{}"))
    again = apply(Jsonl(files=(written.path,), **settings), [], str(tmp_path / "again"))
    assert again.read(["pair_id", "messages"]).equals(pairs.read(["pair_id", "messages"]))
