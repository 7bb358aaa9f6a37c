#!/usr/bin/env bash
# Resolve the pinned requirements anew: one resolution, three subsets, hashes but no index addresses.
set -eu
cd "$(dirname "$0")/.."
compile() { .venv/bin/python -m uv pip compile -q --generate-hashes --no-emit-index-url --no-header --universal --python-version 3.11 "$@"; }
compile pyproject.toml -o requirements/runtime.txt
compile pyproject.toml --extra demo -c requirements/runtime.txt -o requirements/demo.txt
compile requirements/build.in -o requirements/build.txt
compile requirements/page.in -o requirements/page.txt
compile pyproject.toml requirements/dev.in --extra demo -c requirements/demo.txt -c requirements/build.txt -o requirements/dev.txt
compile requirements/clients.in -o requirements/clients.txt
