#!/usr/bin/env bash
# Real components that some tests talk to. Installed only in CI (CI set) by root; elsewhere the tests that need
# one are skipped by name, with the command below.
set -eu
needed=()
command -v nginx >/dev/null 2>&1 || [ -x /usr/sbin/nginx ] || needed+=(nginx-light)
command -v haproxy >/dev/null 2>&1 || [ -x /usr/sbin/haproxy ] || needed+=(haproxy)
command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || needed+=(postgresql)
command -v pgbouncer >/dev/null 2>&1 || [ -x /usr/sbin/pgbouncer ] || needed+=(pgbouncer)
command -v redis-server >/dev/null 2>&1 || needed+=(redis-server)
# promtool checks and tests what is in monitoring/prometheus; the server watches one test. Its service is not wanted.
command -v promtool >/dev/null 2>&1 || needed+=(prometheus)
# Maven only fetches the jars of Kafka (deploy/kafka), once.
command -v java >/dev/null 2>&1 || needed+=(openjdk-17-jre-headless)
command -v mvn >/dev/null 2>&1 || needed+=(maven)
# The operator's page is looked at in a real browser (tests/page).
command -v chromium >/dev/null 2>&1 || needed+=(chromium)
command -v curl >/dev/null 2>&1 || needed+=(curl)
[ "${#needed[@]}" -eq 0 ] && exit 0
if [ -n "${CI:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
  echo "installing system packages: ${needed[*]}"
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${needed[@]}"; } >/dev/null 2>&1 \
    || echo "could not install ${needed[*]}; the tests that need them will be skipped by name"
else
  echo "not installed: ${needed[*]} (the tests that need them are skipped; to have them: apt-get install ${needed[*]})"
fi
