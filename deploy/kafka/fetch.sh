#!/bin/sh
# Puts the jars of a Kafka broker into a directory, once; prints it. Usage: deploy/kafka/fetch.sh [directory]
# Where they come from is a matter of Maven's own settings.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
jars=${1:-$(cd "$here/../.." && pwd)/.cache/kafka}
mkdir -p "$jars"

# Several test workers may ask at the same time.
exec 9>"$jars/.lock"
flock 9
# The stamp is what was fetched: another version in the pom is fetched again.
if ! cmp -s "$here/pom.xml" "$jars/.fetched"; then
    command -v mvn >/dev/null || { echo "mvn is not installed: apt-get install maven" >&2; exit 3; }
    rm -f "$jars"/*.jar
    mvn --batch-mode --quiet --file "$here/pom.xml" dependency:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$jars" >&2
    cp "$here/pom.xml" "$jars/.fetched"
fi
echo "$jars"
