"""The engine: the only code that knows Megatron-Core.

Importing this package costs nothing but makes Megatron-Core importable on a machine without CUDA:
`cpu.install` puts a finder in front of `megatron.core` that decides when the first of its modules is asked
for. Everything below runs the same modules on CPU (gloo) and on GPU (NCCL).
"""

from __future__ import annotations

from trainers.engine.megatron import cpu

cpu.install()
