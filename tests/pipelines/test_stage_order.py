"""Stages are counted, and done in the order in which they are counted; a tracker that is missing is found before."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from commands import luigi
from test_disk_estimate import model

from pipelines.runtime.training import check
from schemas.errors import ConfigError


def test_stages_are_done_in_the_order_in_which_they_are_counted(tmp_path: Path) -> None:
    done = luigi(tmp_path, "Pair", "--workers", "1", "--quiver-processes", "1")
    assert done.returncode == 0, done.stderr
    counted = re.findall(r"stage (\d+) of (\d+)$", done.stderr, re.MULTILINE)
    assert counted == [(str(number), "6") for number in range(1, 7)]


def test_a_tracker_that_is_not_installed_is_refused_at_planning(tmp_path: Path) -> None:
    missing = [name for name in ("wandb", "mlflow") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("every tracker is installed here")
    with pytest.raises(ConfigError) as caught:
        check(model(tmp_path, track=missing))
    assert caught.value.slug == "no-tracker" and missing[0] in caught.value.what
    check(model(tmp_path, track=["tensorboard"]))
