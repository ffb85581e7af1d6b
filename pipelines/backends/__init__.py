"""Ways to reach a model, one file each: this list is the registry. The contract is in `backend`."""

from __future__ import annotations

from pipelines.backends.checkpoint import Checkpoint as Checkpoint
from pipelines.backends.diffusion import Diffusion as Diffusion
from pipelines.backends.function import Function as Function
from pipelines.backends.hf_folder import HfFolder as HfFolder
from pipelines.backends.http import Http as Http
from pipelines.backends.nemo_model import NemoModel as NemoModel
from pipelines.backends.peft_folder import PeftFolder as PeftFolder
from pipelines.backends.trtllm import Trtllm as Trtllm
from pipelines.backends.vllm import Vllm as Vllm
