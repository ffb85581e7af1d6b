"""`quiver serve` in a process of its own, as the tests of servers need it: the same door as a stranger's."""

from __future__ import annotations

from pathlib import Path

from tests.pipelines.serve.test_command import Process


class OwnServer:
    """The model in `folder`, served as `model`; a context manager. `home`: the workspace is made there."""

    def __init__(self, folder: Path, home: Path, model: str = "m") -> None:
        self.folder, self.home, self.model = folder, home, model

    def __enter__(self) -> OwnServer:
        self.home.mkdir()
        words = (str(self.folder), "--name", self.model, "--port", "0", "--slots", "32", "--threads", "1", "--no-token")
        self._process = Process(self.home, words)
        self._root = self._process.address()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.end(15) == 75, self._process.err.read_text()

    @property
    def reference(self) -> str:
        return f"{self._root}/v1#{self.model}"
