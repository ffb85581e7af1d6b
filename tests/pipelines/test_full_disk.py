"""A disk that takes no more: one error, no traceback of a log file, no empty folder; and names that are not there."""

from __future__ import annotations

import errno
import json
import logging
import resource
import subprocess
from pathlib import Path

import pytest
from commands import LUIGI, environment

from datakit.formats.rows import form_of
from datakit.formats.sources import digests_of
from datakit.registry import kind_of
from pipelines.runtime.failures import failure_text
from pipelines.runtime.logfile import LogFile
from pipelines.setups import setup_kind
from schemas.errors import ConfigError


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


def test_an_import_without_room_ends_in_one_error_and_leaves_no_folder(tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": f"question {n}", "response": f"answer {n * n}"}) for n in range(2000)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    command = [str(LUIGI), "--module", "pipelines", "Import", "--files", "rows.jsonl", "--format", "completions"]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False, preexec_fn=_small_files
    )
    assert done.returncode == 12, done.stderr
    assert done.stderr.count("error[") == 1 and "error[12/file-limit]" in done.stderr
    assert "Traceback" not in done.stderr and "Logging error" not in done.stderr
    assert [place.name for place in (tmp_path / "quiver-data").iterdir()] == ["logs"]


def test_a_log_file_without_room_is_silent_to_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    handler = LogFile("/dev/full", mode="a", delay=True)
    handler.emit(logging.LogRecord("x", logging.INFO, "x.py", 1, "a line", (), None))
    handler.close()
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_no_bug_whoever_meets_it() -> None:
    fields = json.loads(failure_text(OSError(errno.ENOSPC, "No space left on device", "/d/part")))
    assert (fields["code"], fields["slug"]) == (12, "no-space")
    assert "Traceback" not in json.dumps(fields) and "ValueError" in failure_text(ValueError("x"))


def test_names_that_are_not_there_are_answered_with_a_command(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()

    def next_of(call: object, *arguments: object) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            call(*arguments)  # type: ignore[operator]
        return caught.value

    op = next_of(kind_of, "filter.wher")
    assert op.next == "quiver ops filter.where" and all(n.startswith("filter.") for n in op.expected.split(", "))
    assert next_of(form_of, "complations", (), "plain").next == "--format completions"
    assert next_of(form_of, "zzz", (), "plain").next == "quiver formats"
    assert next_of(setup_kind, "digit").next == "--setup digits"
    lost = next_of(digests_of, (str(tmp_path / "row.jsonl"),))
    assert "did you mean rows.jsonl?" in lost.what
    listed = subprocess.run(["sh", "-c", lost.next], capture_output=True, text=True, check=True).stdout
    assert listed.split() == ["rows.jsonl"]
