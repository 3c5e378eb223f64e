#!/bin/sh
# Build the wheel, install it in a clean environment away from the tree, and use it there. Usage: check_wheel.sh PYTHON
set -eu
python=$1
tree=$(pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m build --wheel --outdir "$work/dist" . >"$work/build.log" 2>&1 || { cat "$work/build.log" >&2; exit 1; }
wheel=$(ls "$work"/dist/*.whl)
top=$("$python" - "$wheel" <<'PY'
import sys, zipfile
print(*sorted({name.split("/")[0] for name in zipfile.ZipFile(sys.argv[1]).namelist() if ".dist-info" not in name}))
PY
)
[ "$top" = robopref ] || { echo "the wheel holds more than robopref: $top" >&2; exit 1; }
"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --constraint "$tree/constraints.txt" "$wheel"
cd "$work"
TREE="$tree" "$work/venv/bin/python" -c '
import os, robopref
assert not os.path.realpath(robopref.__file__).startswith(os.path.realpath(os.environ["TREE"]) + "/"), robopref.__file__'
"$work/venv/bin/robopref" doctor
echo "wheel: $(basename "$wheel") holds only robopref and runs away from the tree"
