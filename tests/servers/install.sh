#!/usr/bin/env bash
# Puts vLLM's CPU build into a virtual environment of its own: `bash tests/servers/install.sh build/vllm`.
# It has a torch of its own, of the version of .venv's; PYTORCH_CPU_INDEX as in setup.sh.
set -euo pipefail
venv=$1
here=$(dirname "${BASH_SOURCE[0]}")
torch=$(sed -n 's/^TORCH=//p' setup.sh)
index=$(sed -n 's/^CPU_INDEX=${PYTORCH_CPU_INDEX:-\(.*\)}$/\1/p' setup.sh)
export PIP_DISABLE_PIP_VERSION_CHECK=1

echo "vLLM for CPUs into $venv: about 400 MB to download, 3.5 GB on the disk, minutes"
rm -rf "$venv"
.venv/bin/python -m venv "$venv"
pip() { "$venv/bin/python" -m pip "$@"; }
if [ -n "${PYTORCH_CPU_INDEX:-}" ] || ! pip install -qq "torch==$torch+cpu" 2>/dev/null; then
  pip install -qq "torch==$torch" --index-url "${PYTORCH_CPU_INDEX:-$index}"
fi
pip install -qq "torch==$torch" -r "$here/vllm.txt"
pip uninstall -qq --yes torchvision torchaudio torchcodec # builds for CUDA, with which no model loads
touch "$venv/.installed"
