"""A plain script that reads datasets ends with its own exit code: no thread of Arrow's holds anything of Python's."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pipelines.commands import environment

LATE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Threads of libraries stand still for a moment after they woke another: what a busy machine does to them. */
static void wait_a_moment(void *caller) {
    Dl_info place;
    if (getpid() == syscall(SYS_gettid) || !dladdr(caller, &place)) return;
    if (!strstr(place.dli_fname, "python3") || strstr(place.dli_fname, "site-packages")) usleep(50000);
}
int pthread_cond_broadcast(pthread_cond_t *waiting) {
    int (*real)(pthread_cond_t *) = dlsym(RTLD_NEXT, "pthread_cond_broadcast"), done = real(waiting);
    wait_a_moment(__builtin_return_address(0));
    return done;
}
int pthread_cond_signal(pthread_cond_t *waiting) {
    int (*real)(pthread_cond_t *) = dlsym(RTLD_NEXT, "pthread_cond_signal"), done = real(waiting);
    wait_a_moment(__builtin_return_address(0));
    return done;
}
"""

BEFORE = """
import time
import pyarrow as pa
import pyarrow.parquet as pq
from schemas import Column, Dataset, Schema, shards
import polars, duckdb  # loaded behind Arrow, where such a thread does not end in silence

KIND = Schema("answers", 1, (Column("id", pa.string(), ""), Column("reward", pa.float64(), "")), key=("id",))
rows = pa.table({"id": ["a", "b", "c"], "reward": [0.1, 0.9, 0.5]})

class Last:
    def __del__(self): time.sleep(1)  # the interpreter has begun to end

last = Last()
"""

ARROW_ALONE = """
pq.write_table(rows, "rows.parquet")
read = lambda: pq.ParquetFile(pa.BufferReader(open("rows.parquet", "rb").read())).read()
"""
READS = {
    "in memory": "read = Dataset.from_arrow(rows, KIND, 'answers').arrow",
    "where it lies": "shards._IN_MEMORY_BYTES = 0; read = Dataset.from_arrow(rows, KIND, 'answers').arrow",
    "of a store": "shards._IN_MEMORY_BYTES = 0; read = Dataset.from_arrow(rows, KIND, 'memory://answers').arrow",
}


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("late")
    (folder / "late.c").write_text(LATE)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", "late.so", "late.c", "-ldl", "-lpthread"]
    subprocess.run(command, cwd=folder, check=True)
    return str(folder / "late.so")


def ended(read: str, late: str, folder: Path) -> int:
    script = f"{BEFORE}{read}\nfor _ in range(3): read()\n"
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=environment() | {"LD_PRELOAD": late},
        capture_output=True,
        timeout=120,
        check=False,
    ).returncode


def test_threads_of_arrow_that_hold_what_is_pythons_abort_a_script(late: str, tmp_path: Path) -> None:
    tries = (ended(ARROW_ALONE, late, tmp_path) for _ in range(10))
    assert -signal.SIGABRT in tries, "Arrow itself does not mind any more"


@pytest.mark.parametrize("read", READS)
def test_a_script_that_reads_a_dataset_ends_well(read: str, late: str, tmp_path: Path) -> None:
    assert ended(READS[read], late, tmp_path) == 0
