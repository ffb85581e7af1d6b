"""Megatron-Core on a machine without CUDA: its own source, with every "cuda" in it read as "cpu".

Megatron names the device in literals ("cuda", `torch.cuda.current_device()`, `.cuda()`,
`'torch.cuda.FloatTensor'`) that no argument reaches. On import of a `megatron.core` module its syntax tree is
rewritten: the literals become "cpu" and `torch.cuda` becomes `CPU_CUDA` below. Nothing of torch is patched,
line numbers stay, and where CUDA is present the hook steps aside. A module that never says "cuda" runs as it
was installed; of the others only the statements that do are walked, and the rewritten bytecode is kept in a
private cache folder of the user (not under `python -B`), because the rewrite costs half a second.
"""

from __future__ import annotations

import ast
import bisect
import functools
import gc
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import marshal
import os
import sys
import time
import types
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKAGE = "megatron.core"
_NAME = "__cpu_cuda__"
_UNUSED = "torch.utils.tensorboard"
"""Written to by timers that nobody here starts: its import reads some 350 files, a tenth of the engine's start."""


class Redirect(ast.NodeTransformer):
    """Reads the CUDA device as the CPU in one module's syntax tree; what no line of `source` with "cuda" touches
    stays unvisited.
    """

    def __init__(self, source: bytes) -> None:
        marks = (b"cuda", _UNUSED.encode())
        self.lines = [n for n, line in enumerate(source.split(b"\n"), 1) if any(mark in line for mark in marks)]

    def visit(self, node: ast.AST) -> Any:
        """The node rewritten, or as it is where its lines, decorators included, never say "cuda"."""
        if isinstance(node, (ast.stmt, ast.expr)):
            first = min([node.lineno, *(part.lineno for part in getattr(node, "decorator_list", ()))])
            within = bisect.bisect_left(self.lines, first)
            if within == len(self.lines) or self.lines[within] > (node.end_lineno or node.lineno):
                return node
        return super().visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST:
        """Where Megatron tries to import what is never used here: as if it were not installed."""
        if node.module != _UNUSED:
            return node
        return ast.copy_location(ast.Raise(ast.copy_location(ast.Name("ImportError", ast.Load()), node)), node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """`torch.cuda.x` becomes `CPU_CUDA.x` where it is read."""
        self.generic_visit(node)
        of_torch = isinstance(node.value, ast.Name) and node.value.id == "torch"
        if node.attr == "cuda" and of_torch and isinstance(node.ctx, ast.Load):
            return ast.copy_location(ast.Name(_NAME, ast.Load()), node)
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """`assert t.is_cuda` becomes `assert t.is_cpu`. Asserts only: elsewhere `is_cuda` guards stream
        bookkeeping.
        """
        self.generic_visit(node)
        for part in ast.walk(node):
            if isinstance(part, ast.Attribute) and part.attr == "is_cuda":
                part.attr = "is_cpu"
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        """`"cuda"` becomes `"cpu"`, `"torch.cuda.FloatTensor"` becomes `"torch.FloatTensor"`."""
        if node.value == "cuda":
            return ast.copy_location(ast.Constant("cpu"), node)
        text = node.value
        if isinstance(text, str) and text.startswith("torch.cuda.") and text.endswith("Tensor"):
            return ast.copy_location(ast.Constant(text.replace("torch.cuda.", "torch.")), node)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """A call `x.cuda(...)` becomes `x`: the tensor stays where it is."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "cuda":
            return node.func.value
        return node


def redirected(source: bytes, path: str) -> types.CodeType:
    """The code of one Megatron module with the CUDA device read as the CPU."""
    tree = Redirect(source).visit(ast.parse(source, path))
    return compile(tree, path, "exec", dont_inherit=True)


class Stream:
    """A CUDA stream's interface; work on the CPU is already in order."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def wait_stream(self, other: object) -> None:
        """Return at once: work on the CPU is done in order."""

    wait_event = wait_stream

    def synchronize(self) -> None:
        """Return at once: what was asked of the CPU is done."""

    def record_event(self, event: Event | None = None) -> Event:
        """An event of this moment."""
        event = event or Event()
        event.record()
        return event

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None: ...


class Event:
    """A CUDA event's interface over the wall clock."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        self.at = 0.0

    def record(self, stream: object = None) -> None:
        """Take the time, in seconds of `time.perf_counter`, for `elapsed_time`."""
        self.at = time.perf_counter()

    def elapsed_time(self, later: Event) -> float:
        """Milliseconds between two recorded events."""
        return (later.at - self.at) * 1e3

    def wait(self, stream: object = None) -> None:
        """Return at once: what was recorded is done."""

    synchronize = wait

    def query(self) -> bool:
        """Work recorded before this event is done."""
        return True


class _CpuCuda(types.ModuleType):
    """What Megatron reads as `torch.cuda`: one device, the CPU; the rest falls through to the real module."""

    Stream, Event = Stream, Event

    def __getattr__(self, name: str) -> Any:
        import torch

        return getattr(torch.cuda, name)

    def current_device(self) -> Any:
        import torch

        return torch.device("cpu")

    def current_stream(self, device: object = None) -> Any:
        return Stream()

    default_stream = current_stream

    def stream(self, stream: object = None) -> Any:
        return Stream()

    def set_device(self, device: object = None) -> None: ...

    synchronize = empty_cache = set_device

    def get_rng_state(self, device: object = None) -> Any:
        import torch

        return torch.get_rng_state()

    def set_rng_state(self, state: Any, device: object = None) -> None:
        import torch

        torch.set_rng_state(state)

    def manual_seed(self, seed: int) -> None:
        import torch

        torch.default_generator.manual_seed(seed)  # torch's own keeps the stack of every call for devices to come

    manual_seed_all = manual_seed

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1


CPU_CUDA = _CpuCuda("trainers.engine.megatron.cpu.CPU_CUDA", "torch.cuda over the CPU")


def _fix(module: Any) -> None:
    """What a rewrite of literals does not reach, module by module, right after the module has run."""
    short = module.__name__.removeprefix(PACKAGE + ".")
    if short == "jit":
        module.disable_jit_fuser()  # compiling costs seconds at the first call and gains nothing here
    elif short == "utils":
        module.get_tensor_model_parallel_group_if_none = functools.partial(_group, module)
    elif short == "tensor_parallel.random":
        module._get_cuda_rng_state = lambda device="cpu", clone=False, graph_safe=False: CPU_CUDA.get_rng_state()
        module._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: CPU_CUDA.set_rng_state(state)
    elif short == "transformer.moe.moe_utils":
        module.maybe_move_tensor_to_cpu = _to_host


def _group(utils: Any, tp_group: Any, is_expert: bool = False, check_initialized: bool = True) -> Any:
    """Megatron's own, without the warning to its developers that it raises at every layer of every pass."""
    if not utils.torch.distributed.is_initialized():
        return None
    if tp_group is not None or not utils.parallel_state.is_initialized():
        return tp_group
    kind = "expert_tensor_parallel" if is_expert else "tensor_model_parallel"
    return getattr(utils.parallel_state, f"get_{kind}_group")(check_initialized=check_initialized)


def _to_host(tensor: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
    import torch

    return tensor.numpy() if torch.is_tensor(tensor) and as_numpy else tensor


@functools.cache
def _cache() -> Path | None:
    """Folder of rewritten bytecode: this user's own and writable by nobody else, or None (then nothing is
    kept).
    """
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "quiver" / f"megatron-{sys.implementation.cache_tag}-{own}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        private = all(_private(os.lstat(part)) for part in (folder.parent, folder))
    except (OSError, RuntimeError):
        return None
    return folder if private else None


def _private(stat: os.stat_result) -> bool:
    mine = not hasattr(os, "getuid") or stat.st_uid == os.getuid()
    return mine and not stat.st_mode & 0o022


class _Loader(importlib.machinery.SourceFileLoader):
    """Runs a Megatron module from its rewritten source, never from the stock bytecode where it says "cuda"."""

    def get_code(self, fullname: str) -> types.CodeType | None:
        source = self.get_data(self.path)
        if b"cuda" not in source:
            return super().get_code(fullname)
        folder = _cache()
        if folder is None:
            return redirected(source, self.path)
        kept = folder / hashlib.sha256(self.path.encode() + b"\0" + source).hexdigest()
        code = _read(kept)
        if code is None:
            code = redirected(source, self.path)
            if not sys.dont_write_bytecode:
                _write(kept, marshal.dumps(code))
        return code

    def exec_module(self, module: types.ModuleType) -> None:
        setattr(module, _NAME, CPU_CUDA)
        collecting = gc.isenabled()
        gc.disable()  # syntax trees and modules are no garbage: looking through them took a tenth of the import
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                super().exec_module(module)
        finally:
            if collecting:
                gc.enable()
        _fix(module)


def _read(path: Path) -> types.CodeType | None:
    try:
        with open(path, "rb") as file:
            if not _private(os.fstat(file.fileno())):
                return None
            data = file.read()
    except OSError:
        return None
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        return None
    code = marshal.loads(data[32:])
    return code if isinstance(code, types.CodeType) else None


def _write(path: Path, data: bytes) -> None:
    attempt = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    try:
        attempt.write_bytes(hashlib.sha256(data).digest() + data)
        attempt.chmod(0o600)
        os.replace(attempt, path)
    except OSError:
        attempt.unlink(missing_ok=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds `megatron.core` modules as usual and has `_Loader` load them, unless CUDA is there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != PACKAGE and not fullname.startswith(PACKAGE + "."):
            return None
        import torch

        if torch.cuda.is_available():
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
        return spec


_FINDER = _Finder()


def install() -> None:
    """Put the finder first; it must come before the first import of Megatron-Core."""
    if _FINDER in sys.meta_path:
        return
    if PACKAGE in sys.modules:
        assert sys.modules["torch"].cuda.is_available(), f"{PACKAGE} was imported before trainers.engine"
    sys.meta_path.insert(0, _FINDER)
