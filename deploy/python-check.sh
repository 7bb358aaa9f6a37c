#!/usr/bin/env bash
# Say in one line what is missing before anything is installed.
set -eu
python="${1:-python3}"
if ! command -v "$python" >/dev/null 2>&1; then
  echo "No $python here. Install Python 3.11 or newer (Debian, Ubuntu: apt-get install python3 python3-venv), or run: make PYTHON=/path/to/python3.11" >&2
  exit 1
fi
"$python" - <<'PY' || exit 1
import importlib.util
import platform
import sys

if sys.version_info < (3, 11):
    sys.exit(f"{sys.executable} is Python {platform.python_version()}; 3.11 or newer is needed. Run: make PYTHON=/path/to/python3.11")
if sys.platform == "win32":
    sys.exit("Windows is not supported. Use WSL 2: https://learn.microsoft.com/windows/wsl/install")
missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
if missing:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    sys.exit(f"Python's {' and '.join(missing)} module is missing. Debian, Ubuntu: apt-get install python{version}-venv")
PY
