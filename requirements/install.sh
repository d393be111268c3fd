#!/usr/bin/env bash
# install.sh VENV LOCK: makes the virtual environment VENV if need be and installs what LOCK names, by hash.
# Needs Python 3.11 to 3.13 and nothing else. PYTHON names another interpreter.
set -eu
cd "$(dirname "$0")/.."
venv=$1 lock=$2

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; }

if ! fits "$venv/bin/python"; then
    python=""
    for candidate in ${PYTHON:-} python3 python3.13 python3.12 python3.11 python; do
        if fits "$candidate"; then python=$candidate; break; fi
    done
    if [ -z "$python" ]; then
        echo "No Python 3.11, 3.12 or 3.13 was found; install one, or name it: make PYTHON=/path/to/python3" >&2
        exit 1
    fi
    rm -rf "$venv"
    # Without ensurepip (Debian ships it apart, in python3-venv) a pip outside the environment can still fill it.
    if ! "$python" -m venv "$venv" >"$venv.log" 2>&1; then
        if ! { "$python" -m venv --without-pip "$venv" && "$python" -m pip --python "$venv/bin/python" install pip; } >>"$venv.log" 2>&1; then
            cat "$venv.log" >&2
            echo "The virtual environment could not be made. On Debian and Ubuntu: apt install python3-venv" >&2
            exit 1
        fi
    fi
    rm -f "$venv.log"
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
uv() { "$venv/bin/uv" --quiet pip install --system-certs --python "$venv/bin/python" "$@"; }
echo "Installing $lock into $venv ..."
# uv installs in seconds what pip needs minutes for. It does not read pip's configuration, so it is told the
# index that pip would ask and to trust what this machine trusts; where it still reaches none, pip does the work.
index=${PIP_INDEX_URL:-$(pip config get global.index-url 2>/dev/null || true)}
if [ -n "$index" ] && [ -z "${UV_DEFAULT_INDEX:-}" ]; then export UV_DEFAULT_INDEX=$index; fi
if { pip install --require-hashes -r requirements/tools.txt && uv --no-deps --require-hashes -r "$lock"; } 2>"$venv/uv.log"; then
    uv --no-deps --no-build-isolation --editable .
else
    echo "... with pip, which takes a few minutes"
    pip install --require-hashes -r requirements/tools.txt
    pip install --no-deps --require-hashes -r "$lock"
    pip install --no-deps --no-build-isolation --editable .
fi
