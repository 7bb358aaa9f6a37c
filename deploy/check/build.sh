#!/bin/sh
# Builds the checker of what is deployed, once; prints where it is. Usage: deploy/check/build.sh [directory]
# Its modules are pinned in go.sum; where they come from is a matter of Go's own settings. About two minutes of CPU.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-$(cd "$here/../.." && pwd)/.cache/deploy-check}
mkdir -p "$cache"

# Several test workers may ask at the same time.
exec 9>"$cache/.lock"
flock 9
sources=$(cat "$here/main.go" "$here/go.mod" "$here/go.sum" | sha256sum)
if [ ! -x "$cache/check" ] || [ "$(cat "$cache/.built" 2>/dev/null)" != "$sources" ]; then
    command -v go >/dev/null || { echo "go is not installed: apt-get install golang (1.24 or newer)" >&2; exit 3; }
    (cd "$here" && go build -trimpath -o "$cache/check" .) >&2
    echo "$sources" > "$cache/.built"
fi
echo "$cache/check"
