#!/usr/bin/env bash
# Make a wheelhouse: a folder from which a role is installed without a network, every file by hash.
#
#   scripts/wheelhouse.sh coordinator|hospital FOLDER
#
# It is for the Python and the machine that make it: PYTHON=python3.12 names another Python. torch
# is chosen as in scripts/setup.sh: without CUDA where that is offered, TORCH=torch==2.13.0 for a GPU.
# Install:  python3 -m venv VENV
#           VENV/bin/pip install --no-index --find-links FOLDER --require-hashes -r FOLDER/requirements.txt
set -euo pipefail

usage="usage: scripts/wheelhouse.sh coordinator|hospital FOLDER"
case "${1:-}" in
    coordinator) extras="[metrics]" ;;
    hospital) extras="[pacs]" ;;
    *) echo "$usage" >&2; exit 2 ;;
esac
role="$1"
out="${2:?$usage}"
if [ -e "$out" ] && [ -n "$(ls -A "$out")" ]; then
    echo "$out is not empty: name a new folder, since what is in a wheelhouse is what is installed." >&2
    exit 2
fi
mkdir -p "$out"
wanted="$(cd "$out" && pwd)"
cd "$(dirname "$0")/.."

PYTHON="${PYTHON:-python3}"
TORCH_VERSION="$(sed -n 's/^torch==//p' constraints.txt)"
CPU_WHEELS="https://download.pytorch.org/whl/cpu"
work="$(mktemp -d)"
out="$wanted.unfinished" # a folder that has the name is whole
trap 'rm -rf "$work" "$out"' EXIT
mkdir "$out"
"$PYTHON" -m venv "$work/venv"
pip() { "$work/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
get_torch() { pip download --quiet --no-deps --only-binary :all: --dest "$out" "$@"; }

echo "torch, then everything else that metaward$extras needs" >&2
if [ -n "${TORCH:-}" ]; then
    get_torch "$TORCH"
else
    get_torch "torch==${TORCH_VERSION}+cpu" 2>/dev/null \
        || get_torch "torch==${TORCH_VERSION}+cpu" --extra-index-url "$CPU_WHEELS" 2>/dev/null \
        || get_torch "torch==${TORCH_VERSION}"
fi
version_of() { basename "$out/$1"-*.whl | cut -d- -f2 | sed 's/%2B/+/'; }
torch="torch==$(version_of torch)"

# the release, dated as its commit, so that the same commit gives the same wheel
SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 1577836800)}"
export SOURCE_DATE_EPOCH
pip wheel --quiet --no-deps --wheel-dir "$out" .
pip wheel --quiet --wheel-dir "$out" --find-links "$out" --constraint constraints.txt \
    "metaward$extras==$(version_of metaward)" "$torch"
# an image is made with this pip, and keeps none
pip download --quiet --no-deps --dest "$out" pip

printf '%s\n' "metaward$extras==$(version_of metaward)" "$torch" >"$work/wanted.in"
pip install --quiet --no-index --find-links "$out" uv
"$work/venv/bin/uv" --no-config pip compile --quiet --no-index --find-links "$out" \
    --python "$work/venv/bin/python" --generate-hashes --no-emit-find-links \
    --custom-compile-command "scripts/wheelhouse.sh $role FOLDER" \
    --output-file "$out/requirements.txt" "$work/wanted.in"
sed -i "s|$work/wanted.in|scripts/wheelhouse.sh|" "$out/requirements.txt"
(cd "$out" && sha256sum -- *.whl requirements.txt >SHA256SUMS)

pip install --quiet --dry-run --ignore-installed --no-index --find-links "$out" --require-hashes \
    --requirement "$out/requirements.txt"
rmdir "$wanted" && mv "$out" "$wanted"
"$work/venv/bin/python" - "$role" "$wanted" <<'PY'
import platform, sys
from pathlib import Path
wheels = list(Path(sys.argv[2]).glob("*.whl"))
print(f"{sys.argv[1]}: {len(wheels)} wheels, {sum(w.stat().st_size for w in wheels) / 1e6:.0f} MB, "
      f"for Python {'.'.join(platform.python_version_tuple()[:2])} on {platform.machine()}: {sys.argv[2]}")
PY
