"""What all tests share: one thread per process, reproducible property tests, and the optional sample data.

Optional sample data are public datasets (HH-RLHF, instruction preferences, ...) in a folder beside this
repository or in the one that QUIVER_SHARED_DATA names. Where they are absent, a test of them is skipped.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("POLARS_MAX_THREADS", "2")

import hypothesis
import pytest

from schemas.process.interpreter import own_sockets
from tests.tail import LONGEST
from tests.warm import command
from tests.warm.server import COMPARISON, stand_in_for

if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
    # Hundreds of processes are started here, and each would compile our modules and rewrite Megatron's.
    sys.dont_write_bytecode = False
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell's background job hands this down to all that tests start, and Ctrl-C is among what they try.
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup hands this down in the same way

# as `pipelines` has it for a run; a fresh worker imports by itself where a test starts a program (test_apply_processes)
multiprocessing.set_forkserver_preload(["datakit.apply", "datakit.run.runner", "datakit.registry"])

own_sockets()  # or they would be in the temp folder of the test that is first to start a process

gc.disable()  # until the tests begin: of what is collected nothing is garbage
atexit.register(gc.unfreeze)  # what `settled` kept goes as usual, or a library calls it leaked

ROOT = Path(__file__).resolve().parents[1]

stand_in_for([COMPARISON], command.address)

hypothesis.settings.register_profile("quiver", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("quiver")


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep pytest's own lines as wide as the terminal, whatever a test says of it."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reporter._tw.fullwidth = reporter._tw.fullwidth


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all others in their order (`make test` has xdist keep it)."""
    longest = {str(ROOT / "tests" / name): place for place, name in enumerate(LONGEST.split())}
    items.sort(key=lambda item: longest.get(str(item.path), len(longest)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop() -> None:
    """Whoever runs tests, or hands them out, looks for garbage again."""
    gc.enable()


@pytest.fixture(scope="module", autouse=True)
def settled() -> None:
    """What is there when a file begins is no garbage. A trainer that closes, and every fork, need not look through it:
    thousands of tests and all that they imported are more than what one of them makes.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which no text needs a second line; tests of what a narrow one shows set `COLUMNS` themselves."""
    monkeypatch.setenv("COLUMNS", "2000")


@pytest.fixture
def activated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shell finds this environment's programs by their bare names."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a user's caches are kept in; never those of whoever runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session", autouse=True)
def warm() -> Iterator[None]:
    """The process that is forked for commands of ours ends with the session."""
    yield
    command.end()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the optional sample data; skips the test where it is absent."""
    folder = Path(os.environ.get("QUIVER_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("optional sample data are not here (QUIVER_SHARED_DATA names their folder)")
    return folder
