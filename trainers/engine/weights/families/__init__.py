"""The families, one file each: this list is the registry, in the order in which export tries them."""

from __future__ import annotations

from trainers.engine.weights.families.gpt2 import GPT2 as GPT2
from trainers.engine.weights.families.llama import LLAMA as LLAMA
from trainers.engine.weights.families.mistral import MISTRAL as MISTRAL
from trainers.engine.weights.families.mixtral import MIXTRAL as MIXTRAL
from trainers.engine.weights.families.nemotron import NEMOTRON as NEMOTRON
from trainers.engine.weights.families.qwen2 import QWEN2 as QWEN2
from trainers.engine.weights.families.qwen3 import QWEN3 as QWEN3
