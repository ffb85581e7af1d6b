"""The wheels for a GPU machine without a network: their versions, their sizes, and what the machine still lacks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.gpu import kit


def test_the_kit_has_the_tested_versions() -> None:
    versions = kit.pins()
    constraints = (kit.ROOT / "constraints.txt").read_text().splitlines()
    assert set(versions) == {name for names in kit.FOLDERS.values() for name in names}
    for name in ("megatron-core", "duckdb", "luigi", "tornado", "polars"):
        assert f"{name}=={versions[name]}" in constraints
    assert versions["polars-runtime-32"] == versions["polars"]


def test_a_folder_above_the_limit_is_named(tmp_path: Path) -> None:
    for folder, size in (("1", 900), ("2", 1_100)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a-1-py3-none-any.whl").write_bytes(b"x" * size)
    lines = list(kit.listing(tmp_path, limit=1_000))
    assert [line for line in lines if line.startswith("too large")] == [f"too large: {tmp_path / '2'} is above 0 MB"]


def test_what_a_machine_lacks_is_named_with_what_is_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("tomllib")
    from tests.gpu import install

    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["numpy>=999", "luigi", "no-such-package-here>=2"]\n'
        "[project.optional-dependencies]\nhf = [\"no-such-package-either; python_version < '3'\"]\n"
    )
    lacking = dict(install.lacking(tmp_path))
    assert lacking["no-such-package-here"] == "missing, >=2 is asked for"
    assert lacking["numpy"].endswith("is there, >=999 is asked for")
    assert "no-such-package-either" not in lacking and "tornado" not in lacking


def test_outside_of_a_checkout_nothing_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("tomllib")
    done = subprocess.run(
        [sys.executable, str(kit.ROOT / "tests/gpu/install.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and "run this in the checkout of Quiver" in done.stderr


@pytest.mark.slow
def test_every_wheel_installs_on_python_3_12_and_no_folder_is_above_60_mb(tmp_path: Path) -> None:
    from packaging.tags import compatible_tags, cpython_tags
    from packaging.utils import parse_wheel_filename

    command = [sys.executable, "-m", "tests.gpu.kit", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=kit.ROOT, capture_output=True, text=True, check=False)
    if "fault: " in done.stdout and "too large" not in done.stdout:
        pytest.skip(f"packages cannot be fetched here: {done.stdout.splitlines()[-1]}")
    assert done.returncode == 0, done.stdout + done.stderr
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]
    tags = {*cpython_tags((3, 12), platforms=platforms), *compatible_tags((3, 12), platforms=platforms)}
    for folder, names in kit.FOLDERS.items():
        wheels = kit.sizes(tmp_path / folder)
        parsed = {str(name): wheel_tags for name, _, _, wheel_tags in map(parse_wheel_filename, wheels)}
        assert set(parsed) == set(names) and sum(wheels.values()) <= 60_000_000
        assert all(tags & wheel_tags for wheel_tags in parsed.values())
        assert (tmp_path / folder / "install.py").is_file()
