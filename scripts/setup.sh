#!/usr/bin/env bash
# Make the virtual environment with the pinned versions of constraints.txt.
# torch comes first, in a build without CUDA where one is offered: a hospital's CPU machine has no
# use for several gigabytes of CUDA libraries. On a GPU machine: TORCH=torch==2.13.0 make setup
set -euo pipefail

PYTHON="${PYTHON:-python3}"
VENV="${VENV:-.venv}"
TORCH_VERSION="$(sed -n 's/^torch==//p' constraints.txt)"
CPU_WHEELS="https://download.pytorch.org/whl/cpu"

"$PYTHON" - <<'PY'
import sys
if not (3, 11) <= sys.version_info[:2] <= (3, 13):
    sys.exit(f"metaward needs Python 3.11 to 3.13; this is {sys.version.split()[0]}.\n"
             "Name another one: make setup PYTHON=python3.12")
PY

"$PYTHON" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check "$@"; }

if [ -n "${TORCH:-}" ]; then
    pip install --quiet "$TORCH"
elif ! "$VENV/bin/python" -c "import torch" 2>/dev/null; then
    pip install --quiet --only-binary :all: "torch==${TORCH_VERSION}+cpu" 2>/dev/null \
        || pip install --quiet --only-binary :all: "torch==${TORCH_VERSION}+cpu" \
               --extra-index-url "$CPU_WHEELS" 2>/dev/null \
        || pip install --quiet "torch==${TORCH_VERSION}"
fi
pip install --quiet --constraint constraints.txt --editable ".[dev,metrics,pacs,ray,tensorboard]"
pip check
