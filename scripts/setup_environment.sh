#!/bin/sh
# Make the virtual environment and see that MuJoCo can render off screen. Usage: setup_environment.sh PYTHON VENV
set -eu
python=$1
venv=$2

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "robopref needs Python 3.11 or newer; $python is $("$python" --version 2>&1). Try: make PYTHON=python3.11 ..." >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    if may_install; then
        apt-get update -qq && apt-get install -y -qq python3-venv
    else
        echo "Python's venv module is missing. Run: sudo apt-get install python3-venv" >&2
        exit 1
    fi
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --upgrade pip
echo "Installing the pinned dependencies into $venv (a minute or more) ..."
"$venv/bin/python" -m pip install --quiet --constraint constraints.txt --editable '.[fetch,devices,minari,vla,quantize,dev]'

# Off-screen rendering needs one system library, EGL or OSMesa.
if ! "$venv/bin/python" -c 'from robopref.envs.rendering import ensure_gl_backend; ensure_gl_backend()' >/dev/null 2>&1; then
    if may_install; then
        echo "Installing libosmesa6 for off-screen rendering ..."
        apt-get update -qq && apt-get install -y -qq libosmesa6 >/dev/null
    else
        echo "Off-screen rendering needs a system library. Run: sudo apt-get install libosmesa6" >&2
        exit 1
    fi
    "$venv/bin/python" -c 'from robopref.envs.rendering import ensure_gl_backend; ensure_gl_backend()' >/dev/null
fi

# The operator's page is tested in a real browser; without one those tests are skipped, loudly.
if ! "$venv/bin/python" -c 'import shutil, sys; sys.exit(not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))'; then
    if may_install; then
        echo "Installing chromium for the tests of the operator's page ..."
        { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || echo "No chromium could be installed." >&2
    else
        echo "For the tests of the operator's page, install a browser: sudo apt-get install chromium" >&2
    fi
fi
