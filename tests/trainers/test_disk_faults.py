"""A disk that takes no more while torch writes: an error of storage, with its reason, and nothing is left behind."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import StorageError
from tests.trainers.networks import network
from trainers.engine.checkpoint.checkpoint import save
from trainers.engine.megatron import parallel
from trainers.parallel import Parallel

_ON_A_FULL_DISK = """
import sys, torch
from schemas.errors import StorageError
from trainers.engine.checkpoint.disk_faults import torch_writing
try:
    with torch_writing(sys.argv[1]):
        torch.save({"weights": torch.zeros(300_000)}, sys.argv[1] + "/common.pt")
except StorageError as error:
    print(error.code, error.slug, type(error.__cause__).__name__)
"""


def test_a_file_system_without_room_is_no_space(tmp_path: Path) -> None:
    mount = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=300k none "$1" && exec "$2" -c "$3" "$1"', "sh"]
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no file system can be mounted here")
    command = [*mount, str(tmp_path), sys.executable, _ON_A_FULL_DISK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "12 no-space RuntimeError\n", done.stderr


def test_a_checkpoint_that_cannot_be_begun_is_an_error_of_storage(tmp_path: Path) -> None:
    parallel.start(Parallel())
    net, (soft, hard) = network(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
    try:
        with pytest.raises(StorageError) as caught:
            save(str(tmp_path / "policy"), model=net)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.code, caught.value.slug) == (12, "checkpoint-unwritten")
    assert isinstance(caught.value.__cause__, RuntimeError) and caught.value.kept and caught.value.next
    assert not (tmp_path / "policy").exists() or not any((tmp_path / "policy").glob("_attempt-*"))
