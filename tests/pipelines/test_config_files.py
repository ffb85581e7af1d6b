"""Configuration files that cannot be read: the file and the line are named, nothing waits, nothing is passed over."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from commands import environment, luigi
from luigi.configuration import LuigiConfigParser

from pipelines.cli.config_files import check_files, check_values
from pipelines.cli.known_commands import commands
from pipelines.cli.near_flags import sections
from pipelines.runtime import settings
from schemas.errors import ConfigError
from tests.tail import late

FAULTY = {
    "no header": (b"root = x\n", "luigi.cfg, line 1"),
    "no line of an option": (b"[quiver]\nroot = x\n\nstrange line\n", "luigi.cfg, line 4"),
    "an option twice": (b"[quiver]\nroot = x\nseed = 1\nroot = y\n", "luigi.cfg, line 4"),
    "a section twice": (b"[quiver]\n[core]\n[quiver]\n", "luigi.cfg, line 3"),
    "no UTF-8": (b"[quiver]\nroot = x\nname = \xff\xfe\n", "luigi.cfg, line 3"),
}


def refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> ConfigError:
    monkeypatch.chdir(folder)
    with pytest.raises(ConfigError) as caught:
        check_files()
    assert caught.value.slug == "bad-configuration"
    return caught.value


@pytest.mark.parametrize("fault", FAULTY)
def test_a_file_that_luigi_cannot_parse_is_named_with_the_line(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, where = FAULTY[fault]
    (tmp_path / "luigi.cfg").write_bytes(data)
    assert refused(tmp_path, monkeypatch).where == where


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing behind a link", "large"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "luigi.cfg"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "device":
        place.symlink_to("/dev/zero")
    elif kind == "folder":
        place.mkdir()
    elif kind == "large":
        place.write_text("[quiver]\n" + "# a line of some length\n" * 50_000)
    else:
        place.symlink_to("nowhere")
    assert "luigi.cfg" in refused(tmp_path, monkeypatch).where


def test_a_named_file_that_is_not_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUIGI_CONFIG_PATH", str(tmp_path / "absent.cfg"))
    error = refused(tmp_path, monkeypatch)
    assert "LUIGI_CONFIG_PATH" in error.where
    assert error.next == "unset LUIGI_CONFIG_PATH"


def test_files_that_luigi_reads_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_files()
    (tmp_path / "luigi.cfg").write_text(
        "# a remark\n[DEFAULT]\nx = 1\n[quiver]\nroot: näher\nRoot = other\n more of it\n"
    )
    (tmp_path / "named.cfg").write_text("[core]\nworkers = 2\n")
    monkeypatch.setenv("LUIGI_CONFIG_PATH", "named.cfg")
    check_files()


@pytest.mark.parametrize("value", ["a%b", "%(nothing)s", "${NO_SUCH_VARIABLE_OF_OURS}"])
def test_a_reference_to_nothing_names_section_and_key(value: str) -> None:
    config = LuigiConfigParser()
    config.read_dict({"quiver": {"seed": "1"}, "core": {"workers": "1"}})
    check_values(config)
    config._sections["quiver"]["root"] = value  # type: ignore[attr-defined]
    assert isinstance(config, configparser.ConfigParser)
    with pytest.raises(ConfigError) as caught:
        check_values(config)
    assert (caught.value.slug, caught.value.where) == ("bad-configuration", "[quiver] root")


def quiver(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; sys.argv[0] = 'quiver'; from quiver.console import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *words],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_quiver_looks_before_luigi_does(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "luigi.cfg")
    done = quiver(tmp_path, "Import", "--files", "x")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error[2/bad-configuration]: the configuration cannot be read: luigi.cfg")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[quiver]\nrot = x\n", ("unknown key rot", "where: luigi.cfg, line 2\n")),
        ("[core]\n[Grpp]\nscale = none\n", ("no section [Grpp]", "expected: [Grpo]", "where: luigi.cfg, line 2\n")),
        ("[Grpo]\n\nscale = nonee\n", ("one of ", "where: luigi.cfg, line 3: [Grpo] scale = nonee\n")),
        late("[quiver]\nseed = x\n", ("not a whole number", "where: luigi.cfg, line 2: [quiver] seed = x\n")),
    ],
)
def test_what_cannot_be_is_named_with_file_and_line_before_luigi_warns(
    text: str, words: Sequence[str], tmp_path: Path
) -> None:
    (tmp_path / "luigi.cfg").write_text(text)
    done = quiver(tmp_path, "Grpo")
    assert done.returncode == 2 and done.stderr.startswith("error[2/"), done.stderr
    assert all(word in done.stderr for word in words), done.stderr


LUIGIS = """
    batch_notifier core cors datadog dropbox elasticsearch email execution_summary hadoop hdfs hive kubernetes logging
    mysql postgres prometheus redshift resources retcode s3 scalding scheduler sendgrid smtp snakebite spark
    task_history webhdfs worker MyGrpo SftOfMine MyTask client
"""


@pytest.mark.parametrize("section", LUIGIS.split())
def test_sections_of_luigi_and_of_other_modules_are_none_of_ours(section: str) -> None:
    assert settings._near_section(section, [*commands(), *sections()]) == ""


def test_luigis_own_program_refuses_a_reference_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "luigi.cfg").write_text("[quiver]\nroot = a%b\n")
    done = luigi(tmp_path, "Import", "--files", "x", module="pipelines")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error[2/bad-configuration]: the configuration cannot be read: [quiver] root")
