#!/usr/bin/env bash
# Install one service alone, then import all of it and run its unit tests there.
# Usage: infra/isolated.sh UV SERVICE
set -euo pipefail
uv=$1 service=$2
cd "$(dirname "$0")/.."
export UV_PROJECT_ENVIRONMENT="$PWD/.venvs/$service"
"$uv" sync --locked --quiet --package "headrace-$service" --no-dev
if "$UV_PROJECT_ENVIRONMENT/bin/python" -c 'import torch' 2>/dev/null; then
    echo "headrace-$service brings torch along; only the extra torch of the embedder may" >&2
    exit 1
fi
"$UV_PROJECT_ENVIRONMENT/bin/python" - "$service" <<'PYTHON'
import importlib
import pkgutil
import sys

package = importlib.import_module(f"headrace_{sys.argv[1]}")
for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    importlib.import_module(module.name)
PYTHON
# The test tools come on top, for the run only; what the service itself needs must be there already.
PYTHONPATH="$PWD/testing/src" "$uv" run --no-project --python "$UV_PROJECT_ENVIRONMENT/bin/python" \
    --with-requirements <("$uv" export --quiet --locked --only-group test --no-emit-workspace) \
    python -m pytest -q -m unit "services/$service/tests"
