"""How fast a run is: tokens per second, attention's padding, and the share of the device's peak that the model uses.

Model FLOPs are counted as in PaLM (Chowdhery et al. 2022, arXiv:2204.02311, appendix B): 6 N per token for the
multiplications with N weights, forward and backward, and 12 L H Q per token and position it attends to. Recomputation
does not count, nor does padding. The peak is that of dense bf16 tensor cores, as NVIDIA's data sheets give it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainers.architecture import ModelConfig
from trainers.config import Run
from trainers.engine.megatron.parallel import Layout
from trainers.engine.reporting.results import StepResult
from trainers.tensors import active_weights

PEAKS = (
    ("GB200", 2500e12),
    ("B200", 2250e12),
    ("GH200", 989e12),
    ("H200", 989e12),
    ("H100 PCIE", 756e12),
    ("H100 NVL", 835e12),
    ("H100", 989e12),
    ("H800", 989e12),
    ("H20", 148e12),
    ("A100", 312e12),
    ("A800", 312e12),
    ("L40S", 362e12),
    ("L40", 181e12),
    ("L4", 121e12),
    ("A40", 150e12),
    ("A10", 125e12),
    ("RTX A6000", 155e12),
    ("RTX 4090", 165e12),
    ("RTX 3090", 71e12),
)
"""Dense bf16 FLOP/s by what a device's name contains; the first that fits holds."""


def peak_of(device: str) -> float | None:
    """Dense bf16 FLOP/s of a device by its name, as CUDA tells it; None if unknown."""
    words = device.upper().replace("-", " ").split()
    for name, peak in PEAKS:
        parts = name.split()
        if parts == [word for word in words if word in parts]:
            return peak
    return None


@dataclass(frozen=True)
class Speed:
    """What turns a step and its seconds into figures. `peak`: FLOP/s of all devices together, if known."""

    per_token: float
    per_pair: float
    peak: float | None

    @staticmethod
    def of(run: Run, model: ModelConfig, layout: Layout) -> Speed:
        """Frozen weights (below adapters) get no gradient of their own: 4 N instead of 6 N. MFU in bf16 only."""
        known = None
        if run.learning.precision == "bf16" and layout.device.type == "cuda":
            known = peak_of(torch.cuda.get_device_name(layout.device))
        return Speed(
            per_token=(6.0 if run.learning.lora is None else 4.0) * active_weights(model),
            per_pair=12.0 * model.num_layers * model.num_attention_heads * model.head_channels,
            peak=None if known is None else known * layout.world,
        )

    def figures(self, result: StepResult, seconds: float) -> dict[str, float]:
        """`tokens_per_second`; `padding`: share of attention's positions that carry no token; `mfu` if it is known."""
        figures = {
            "tokens_per_second": result.tokens / seconds,
            "padding": 1 - result.tokens / max(1, result.padded_tokens),
        }
        if self.peak is not None:
            flops = self.per_token * result.tokens + self.per_pair * result.pairs
            figures["mfu"] = flops / seconds / self.peak
        return figures
