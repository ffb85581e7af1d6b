"""The module of a function that is named as a model: read before it runs, and refused where it is no Python."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from datakit.clients import PythonScorer
from pipelines.graph.backend import backend_of, model_at, placement_of
from pipelines.graph.opening import opener_of
from pipelines.graph.plan import Plan
from schemas import SAMPLES
from schemas.errors import ConfigError, IntegrityError


def test_a_functions_module_is_read_and_no_package_around_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = tmp_path / "leaving_rewards"
    package.mkdir()
    (package / "__init__.py").write_text("import sys; sys.exit(0)")
    (package / "short.py").write_text("def score(response): return [1.0] * len(response)")
    node = model_at(Plan(str(tmp_path)), "leaving_rewards.short:score", "scorer")
    assert node.kind == "function" and "leaving_rewards" not in sys.modules


@pytest.mark.parametrize(
    "text",
    [b"def score(response:\n", b"# \xe9\ndef score(response): ...\n", b"def score(response):\n    \x00\n"],
    ids=["syntax", "encoding", "nul"],
)
def test_a_functions_module_that_is_no_python_is_a_settings_error(
    text: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_rewards.py").write_bytes(text)

    def asked() -> None:
        node = model_at(Plan(str(tmp_path)), "broken_rewards:score", "scorer")
        backend_of(node).takes(node, "scorer", SAMPLES)

    with pytest.raises(ConfigError, match="not Python that can be read") as caught:
        asked()
    assert "py_compile" in caught.value.next


def test_a_functions_module_of_another_coding_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "# -*- coding: latin-1 -*-\n# \xe9\ndef score(response): ...\n"
    (tmp_path / "old_rewards.py").write_bytes(text.encode("latin-1"))
    node = model_at(Plan(str(tmp_path)), "old_rewards:score", "scorer")
    assert backend_of(node).takes(node, "scorer", SAMPLES).names == ("response",)


def test_a_function_that_was_edited_since_it_was_planned_answers_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers would stand under the key of the older text."""
    monkeypatch.chdir(tmp_path)
    module = tmp_path / "edited_rewards.py"
    module.write_text("def score(response): return [1.0] * len(response)\n")
    node = model_at(Plan(str(tmp_path)), "edited_rewards:score", "scorer")
    opened = opener_of(node, "scorer", SAMPLES.selecting("response"), placement_of(node))
    assert isinstance(opened(), PythonScorer)
    module.write_text("def score(response): return [2.0] * len(response)\n")
    with pytest.raises(IntegrityError, match="changed since this run was planned") as caught:
        opened()
    assert caught.value.slug == "source-changed" and "the same command" in caught.value.next


@pytest.mark.parametrize("given", ["", "*response", "**columns", "response=None"])
def test_a_function_that_asks_for_no_column_is_refused(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asking_rewards.py").write_text(f"def score({given}): return [1.0]\n")
    node = model_at(Plan(str(tmp_path)), "asking_rewards:score", "scorer")
    with pytest.raises(ConfigError, match="asks for no column") as caught:
        backend_of(node).takes(node, "scorer", SAMPLES)
    assert caught.value.next == "write it as def score(response)"
