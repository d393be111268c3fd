#!/usr/bin/env bash
# Writes the lock files anew from pyproject.toml: `make lock`. Needs uv (named in UV, or on the PATH).
#   make lock ARGS=--upgrade                 everything to its newest version
#   make lock ARGS='--upgrade-package ccxt'  one package
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-uv}
flags=(--quiet --universal --generate-hashes --no-emit-index-url --no-header --no-annotate --no-strip-extras --python-version 3.11)
"$uv" pip compile "${flags[@]}" "$@" --extra dev pyproject.toml -o requirements/dev.txt
"$uv" pip compile "${flags[@]}" "$@" --extra all -c requirements/dev.txt pyproject.toml -o requirements/run.txt
printf "uv\nsetuptools\n" | "$uv" pip compile "${flags[@]}" "$@" -c requirements/dev.txt - -o requirements/tools.txt
