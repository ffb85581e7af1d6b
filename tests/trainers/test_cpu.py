"""Megatron-Core without CUDA: no CUDA name survives the rewrite, and the cache of rewritten code is
private.
"""

from __future__ import annotations

import ast
import gc
import importlib.util
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

from trainers.engine.megatron import cpu


def _files() -> list[Path]:
    spec = importlib.util.find_spec("megatron.core")
    assert spec is not None
    assert spec.origin is not None
    return sorted(Path(spec.origin).parent.rglob("*.py"))


def test_no_megatron_module_keeps_a_cuda_device() -> None:
    files = _files()
    assert len(files) > 150
    for path in files:
        source = path.read_bytes()
        tree = cpu.Redirect(source).visit(ast.parse(source))
        for node in ast.walk(tree):
            assert not (isinstance(node, ast.Constant) and node.value == "cuda"), f"{path}:{node.lineno}"
            if isinstance(node, ast.Attribute) and node.attr == "cuda":
                assert not (isinstance(node.value, ast.Name) and node.value.id == "torch"), f"{path}:{node.lineno}"


def test_redirected_code_runs_on_the_cpu_and_keeps_line_numbers() -> None:
    source = (
        b"import torch\n"
        b"a = torch.zeros(2, device='cuda').cuda()\n"
        b"assert not a.is_cuda or True\n"
        b"b = torch.cuda.current_device()\n"
        b"t = a.type() == 'torch.cuda.FloatTensor'\n"
        b"raise RuntimeError\n"
    )
    names: dict[str, object] = {"__cpu_cuda__": cpu.CPU_CUDA}
    with pytest.raises(RuntimeError) as caught:
        exec(cpu.redirected(source, "here.py"), names)  # noqa: S102 - our own six lines
    assert caught.traceback[-1].lineno == 5
    assert names["b"] == torch.device("cpu")
    assert names["t"] is True


def test_what_is_never_used_is_told_to_be_missing() -> None:
    source = (
        b"try:\n    from torch.utils.tensorboard import SummaryWriter\nexcept ImportError:\n    SummaryWriter = None\n"
    )
    names: dict[str, object] = {}
    exec(cpu.redirected(source, "here.py"), names)  # noqa: S102 - our own four lines
    assert names["SummaryWriter"] is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="the hook steps aside where CUDA is")
def test_megatron_starts_without_tensorboard() -> None:
    from megatron.core import timers

    assert timers.SummaryWriter is None


def test_what_spans_lines_and_decorators_is_reached_and_all_else_stays() -> None:
    kept = "def plain(a, b=(1, 2)):\n    return [c.real for c in a if 'kuda' not in b]\n"
    spread = (
        "@one\n@torch.cuda.two\n@three\ndef marked(\n    a,\n    b='cuda',\n): return a\n"
        "class Of(torch.cuda.Base, metaclass=x): y: int = f(\n    1, device='cuda')\n"
        "match m:\n    case 1 if n == 'cuda': z = lambda d='cuda': d\n"
        "try: pass\nexcept torch.cuda.Error: pass\nwith torch.cuda.stream(s): t = f'{a.cuda()}'\n"
    )
    tree = ast.parse(kept + spread)
    plain = tree.body[0]
    seen = cpu.Redirect((kept + spread).encode()).visit(tree)
    assert seen.body[0] is plain and ast.unparse(plain) == ast.unparse(ast.parse(kept))
    expected = spread.replace("a.cuda()", "a").replace("torch.cuda", "__cpu_cuda__").replace("'cuda'", "'cpu'")
    assert ast.unparse(seen) == ast.unparse(ast.parse(kept + expected))


def test_a_module_without_the_word_runs_as_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    rewritten: list[str] = []
    monkeypatch.setattr(cpu, "_cache", lambda: None)
    monkeypatch.setattr(cpu, "redirected", lambda source, path: rewritten.append(path))
    files = _files()
    for path in files:
        cpu._Loader("megatron.core.x", str(path)).get_code("megatron.core.x")
    assert rewritten == [str(path) for path in files if "cuda" in path.read_text()]
    assert 50 < len(rewritten) < len(files) // 2


def test_the_collector_is_as_it_was_after_an_import(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import gc\nseen = gc.isenabled()\nraise RuntimeError(seen)\n")
    module = types.ModuleType("megatron.core.broken")
    module.__spec__ = importlib.util.spec_from_file_location(module.__name__, path)
    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="False"):
        cpu._Loader(module.__name__, str(path)).exec_module(module)
    assert gc.isenabled()


def test_torch_itself_is_not_changed() -> None:
    import megatron.core  # noqa: F401 - for its effect

    assert torch.cuda.current_stream.__module__ == "torch.cuda"
    assert cpu.CPU_CUDA.Stream is not torch.cuda.Stream


def test_importing_the_engine_is_light() -> None:
    code = "import sys, trainers.engine; print('torch' in sys.modules, 'megatron.core' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.split() == ["False", "False"]


def test_kept_code_is_refused_when_damaged_or_writable_by_others(tmp_path: Path) -> None:
    import marshal

    kept = tmp_path / "code"
    cpu._write(kept, marshal.dumps(cpu.redirected(b"x = 1", "x.py")))
    assert cpu._read(kept) is not None
    kept.chmod(0o666)
    assert cpu._read(kept) is None
    kept.chmod(0o600)
    kept.write_bytes(kept.read_bytes()[:-1])
    assert cpu._read(kept) is None


def test_a_cache_folder_that_others_can_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "quiver").mkdir()
    (tmp_path / "quiver").chmod(0o777)
    cpu._cache.cache_clear()
    try:
        assert cpu._cache() is None
        (tmp_path / "quiver").chmod(0o700)
        cpu._cache.cache_clear()
        assert cpu._cache() is not None
    finally:
        cpu._cache.cache_clear()


def _source(name: str) -> str:
    return next(path for path in _files() if path.as_posix().endswith(name)).read_text()


def test_megatron_still_leaves_a_name_undefined_without_transformer_engine() -> None:
    """When this fails, the repair at the top of `trainers.engine.megatron.mixture` can go."""
    body = ast.parse(_source("moe/moe_utils.py")).body
    attempts = [part for part in body if isinstance(part, ast.Try) and "te_general_gemm" in ast.unparse(part)]
    assert len(attempts) == 1
    assert not any("te_general_gemm" in ast.unparse(handler) for handler in attempts[0].handlers)


def test_megatron_still_keeps_splits_off_numpy_on_the_cpu() -> None:
    """When this fails, `_to_host` in `trainers.engine.megatron.cpu` can go."""
    body = ast.parse(_source("moe/moe_utils.py")).body
    definitions = [p for p in body if isinstance(p, ast.FunctionDef) and p.name == "maybe_move_tensor_to_cpu"]
    names: dict[str, object] = {"torch": torch}
    exec(ast.unparse(definitions[0]), names)  # noqa: S102 - a function of the installed Megatron
    counts = torch.arange(3)
    assert torch.is_tensor(names["maybe_move_tensor_to_cpu"](counts, as_numpy=True))  # type: ignore[operator]
    assert cpu._to_host(counts, as_numpy=True).tolist() == [0, 1, 2]
    assert cpu._to_host(counts) is counts
    assert cpu._to_host(7, as_numpy=True) == 7


def test_both_repairs_are_in_place() -> None:
    from megatron.core.transformer.moe import token_dispatcher

    from trainers.engine.megatron import mixture

    assert hasattr(mixture.moe_utils, "te_general_gemm")
    assert token_dispatcher.maybe_move_tensor_to_cpu is cpu._to_host
