#!/usr/bin/env bash
# Sets up .venv: a plain virtual environment with torch (CPU build without an NVIDIA GPU, CUDA build with one),
# Quiver itself (editable) and the extras named on the command line.
#
#   bash setup.sh            what `make run` needs
#   bash setup.sh dev        what `make test`, `make check` and `make bench` need
#
# Idempotent: returns at once while pyproject.toml, constraints.txt, this file and the machine stay the same.
#   PYTHON              interpreter to use (default: the first of python3, python3.12 ... that is 3.10 to 3.13)
#   PYTORCH_CPU_INDEX   address of PyTorch's package index for CPU builds, for when pip's own has no such build
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

TORCH=2.13.0
extras=${1:-}

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
  fail "no suitable Python" "3.10 to 3.13" "$("${PYTHON:-python3}" --version 2>/dev/null || echo none)" "PATH" \
    "PYTHON=/path/to/python3.12 make setup"
}

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1; }

install() { .venv/bin/python -m pip install -qq --disable-pip-version-check "$@"; }

install_torch() {
  if has_gpu; then
    echo "set-up: torch $TORCH, CUDA build (nvidia-smi sees a GPU)"
    install "torch==$TORCH"
  elif install "torch==$TORCH+cpu" 2>/dev/null; then
    echo "set-up: torch $TORCH, CPU build (no NVIDIA GPU)"
  elif [ -n "${PYTORCH_CPU_INDEX:-}" ]; then
    echo "set-up: torch $TORCH, CPU build from \$PYTORCH_CPU_INDEX (no NVIDIA GPU)"
    install "torch==$TORCH" --index-url "$PYTORCH_CPU_INDEX"
  else
    echo "set-up: torch $TORCH from pip's own index, which names no CPU build: on Linux x86-64 this may fetch CUDA" \
      "packages of several GB that this machine cannot use. To avoid that, stop, and set PYTORCH_CPU_INDEX (README.md)."
    install "torch==$TORCH"
  fi
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
echo "set-up: Quiver and its libraries${extras:+, extras $extras} (a minute or two)"
# shellcheck disable=SC2086
install $constraints "torch==$TORCH" --editable ".${extras:+[$extras]}"
rm -f .venv/.set-up-*
touch "$stamp" "$stamp${extras:+-$extras}"
echo "set-up: done in $((SECONDS - started)) s"
