#!/usr/bin/env bash
# Make .tools: validators of container files and manifests, and cyclonedx-py. Versions: scripts/tools.txt.
set -euo pipefail
cd "$(dirname "$0")/.."
"${PYTHON:-python3}" -m venv .tools
.tools/bin/python -m pip --disable-pip-version-check install --quiet --requirement scripts/tools.txt
