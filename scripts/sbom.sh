#!/usr/bin/env bash
# Write what an environment consists of as a CycloneDX 1.6 bill of materials (JSON).
#
#   scripts/sbom.sh FILE [PYTHON]     PYTHON: of the environment, .venv/bin/python where left out
#
# The same environment gives the same bytes. cyclonedx-py is looked for on the PATH; where it is not, it comes into
# .tools, an environment of its own, so that what is described stays as it is.
set -euo pipefail

out="${1:?usage: scripts/sbom.sh FILE [PYTHON]}"
python="${2:-$(dirname "$0")/../.venv/bin/python}"
root="$(cd "$(dirname "$0")/.." && pwd)"
export PATH="$root/.tools/bin:$PATH"
command -v cyclonedx-py >/dev/null || bash "$root/scripts/tools.sh"

# the project's own description (licence, links) is that of the environment's root component
cyclonedx-py environment --spec-version 1.6 --output-format JSON --output-reproducible \
    --pyproject "$root/pyproject.toml" --output-file "$out" "$python"
