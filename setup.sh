#!/usr/bin/env bash
# Sets up .venv: a plain virtual environment with torch (CPU build without an NVIDIA GPU, CUDA build with one),
# Quiver itself (editable) and the extras named on the command line.
#
#   bash setup.sh report     what `make run` needs (without the extra it needs the same, and draws no charts)
#   bash setup.sh dev        what `make test`, `make check` and `make bench` need
#
# Idempotent: returns at once while pyproject.toml, constraints.txt, this file and the machine stay the same.
#   PYTHON              interpreter to use (default: the first of python3, python3.12 ... that is 3.10 to 3.13)
#   PIP_RETRIES, PIP_TIMEOUT   pip's own (default here: 2, 10 seconds), so that a machine without a network soon says so
#   PYTORCH_CPU_INDEX   package index for PyTorch's CPU builds, instead of pip's own and PyTorch's documented one
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

TORCH=2.13.0
CPU_INDEX=${PYTORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}
extras=${1:-}
export PIP_RETRIES=${PIP_RETRIES:-2} PIP_TIMEOUT=${PIP_TIMEOUT:-${PIP_DEFAULT_TIMEOUT:-10}}

fail() {
  printf 'error[2/set-up]: %s\n  expected: %s   found: %s\n  where: %s\n  kept: everything outside .venv\n  next: %s\n' "$@" >&2
  exit 2
}

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.12 python3.11 python3.13 python3.10}; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  fail "no suitable Python" "3.10 to 3.13" "$("${PYTHON:-python3}" --version 2>/dev/null || echo none)" \
    "${PYTHON:+PYTHON=}${PYTHON:-PATH}" \
    "PYTHON=/path/to/python3.12 make setup"
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

install() { .venv/bin/python -m pip install -qq --disable-pip-version-check "$@"; }

offline() {
  fail "PyTorch could not be downloaded: $1" "the network, or a folder of wheels" "$(last_line .venv/torch.log)" \
    "$PWD/.venv/torch.log" "connect to the network, or: PIP_NO_INDEX=1 PIP_FIND_LINKS=/path/to/wheels bash setup.sh $extras"
}

last_line() { tr -d '\r' <"$1" | grep . | tail -n 1 | cut -c 1-160; }

install_torch() {
  if has_gpu; then
    echo "set-up: downloading torch $TORCH for CUDA, several GB (nvidia-smi sees a GPU)"
    install "torch==$TORCH" 2>.venv/torch.log || offline "pip finds no build for CUDA"
    return
  fi
  if [ -z "${PYTORCH_CPU_INDEX:-}" ]; then
    echo "set-up: downloading torch $TORCH for CPUs, about 200 MB (no NVIDIA GPU)"
    if install "torch==$TORCH+cpu" 2>.venv/torch.log; then return; fi
    if [ -n "${PIP_NO_INDEX:-}" ]; then offline "pip's folder has no build for CPUs, and it may ask no index"; fi
  fi
  echo "set-up: downloading torch $TORCH for CPUs, about 200 MB, from $CPU_INDEX"
  install "torch==$TORCH" --index-url "$CPU_INDEX" 2>.venv/torch.log || offline "no build for CPUs from $CPU_INDEX"
}

command -v flock >/dev/null && { exec 9>.setup.lock; flock 9; }

python=$(find_python)
build=$(has_gpu && echo cuda || echo cpu)
state=$({ "$python" --version; echo "$build $TORCH"; cat pyproject.toml constraints.txt setup.sh; } | sha256sum | cut -c1-16)
stamp=.venv/.set-up-$state
if [ -e "$stamp${extras:+-$extras}" ]; then exit 0; fi

torch_of_venv() {
  .venv/bin/python -c 'import importlib.metadata as m; print(m.version("torch"))' 2>/dev/null || echo none
}

started=$SECONDS
there=$(torch_of_venv)
if ! .venv/bin/python -c 'import pip' 2>/dev/null || [ "$build $there" = "cuda $TORCH+cpu" ]; then
  echo "set-up: virtual environment .venv with $("$python" --version)"
  "$python" -m venv --clear .venv || fail "could not make a virtual environment" "a Python with venv and ensurepip" \
    "$python" "$PWD/.venv" "install your system's python3-venv package, then run the same command again"
  there=none
fi
[ "${there%%+*}" = "$TORCH" ] || install_torch
# Some tested versions need Python 3.11; on 3.10 pip chooses older ones within the ranges of pyproject.toml.
constraints=$(.venv/bin/python -c 'import sys; print("-c constraints.txt" if sys.version_info >= (3, 11) else "")')
echo "set-up: downloading Quiver's libraries${extras:+, extras $extras}: about 300 MB, a minute or two"
# shellcheck disable=SC2086
install $constraints "torch==$(torch_of_venv)" --editable ".${extras:+[$extras]}" 2>.venv/libraries.log ||
  fail "Quiver's libraries could not be installed" "a package index that has those of constraints.txt" \
    "$(last_line .venv/libraries.log)" "$PWD/.venv/libraries.log" "connect to the network, then run the same command again"
rm -f .venv/.set-up-*
touch "$stamp" "$stamp${extras:+-$extras}"
if [ "$extras" = dev ]; then touch "$stamp-report"; fi  # which has it all
echo "set-up: done in $((SECONDS - started)) s"
