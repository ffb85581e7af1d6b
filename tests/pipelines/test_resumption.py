"""What a run went on from is said as its own log has it: a damaged save is named, and not called the one it read."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.makers.training import Resumption

OLDER = "warning: the save of step 9 is damaged: a\nresumed at step 8\n"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("resumed at step 4\nstep 5\n", ["policy resumed at step 4, the newest save"]),
        (
            "warning: the save of step 4 is damaged: common.pt is not the file\nresumed at step 2\nwarning: no\n",
            ["policy warning: the save of step 4 is damaged: common.pt is not the file", "policy resumed at step 2"],
        ),
        ("resumed at ste", []),
    ],
)
def test_a_run_says_which_save_it_went_on_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, lines: list[str]
) -> None:
    log = tmp_path / "rank-00000.log"
    log.write_text(OLDER)
    resumption = Resumption("policy", log, newest=4)
    resumption.tell()
    with log.open("a") as file:
        file.write(text)
    resumption.tell()
    resumption.tell()
    assert [" ".join(line.split()) for line in capsys.readouterr().err.splitlines()] == lines


def test_a_run_without_saves_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resumption = Resumption("policy", tmp_path / "rank-00000.log", newest=0)
    (tmp_path / "rank-00000.log").write_text("resumed at step 4\n")
    resumption.tell()
    assert capsys.readouterr().err == ""
