"""What the load tests configure is accepted by the product, and the peers' templates by nginx."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from loadtests.peers import Certificates, Upstream, nginx_upstream, post, tool
from loadtests.processes import Cores, Skipped, cpu_seconds, descendants, rss_bytes
from loadtests.product import MODELS, ROUTE, configuration
from proxy.config.load import load_text


@pytest.mark.parametrize("with_variants", [False, True])
@pytest.mark.parametrize("with_tls", [False, True])
def test_the_configuration_is_accepted(with_variants: bool, with_tls: bool, tmp_path: Path) -> None:
    """Three models, twice as many arms with prompts, the private authority when there is TLS."""
    (tmp_path / "ca.pem").write_text("")
    tls = Certificates(tmp_path / "ca.pem", tmp_path / "c", tmp_path / "k") if with_tls else None

    document = configuration(Upstream(9001, (), tls), with_variants=with_variants)
    loaded = load_text(yaml.safe_dump(document), {})

    (route,) = [route for route in loaded.settings.routes if route.name == ROUTE]
    assert len(route.arms) == len(MODELS) * (2 if with_variants else 1)
    (upstream,) = [upstream for upstream in loaded.settings.upstreams if upstream.name == "mock"]
    assert upstream.base_url.startswith("https" if with_tls else "http:")


def test_nginx_serves_the_static_reply(tmp_path: Path) -> None:
    """The upstream template is a valid configuration and answers POST with JSON that has usage."""
    try:
        tool("nginx", "nginx-light")
    except Skipped as skip:
        pytest.skip(str(skip))
    core = min(os.sched_getaffinity(0))
    with nginx_upstream(Cores(core, core), tmp_path) as upstream:
        reply = yaml.safe_load(post(f"http://127.0.0.1:{upstream.port}/v1/chat/completions", {"a": 1}))
        assert cpu_seconds(upstream.pids) >= 0.0
        assert rss_bytes(upstream.pids[0]) > 0

    assert reply["usage"]["total_tokens"] == 600


def test_descendants_start_with_the_process_itself() -> None:
    """Children are found by /proc, the parent first."""
    child = subprocess.Popen(["sleep", "30"])
    try:
        found = descendants(os.getpid())
    finally:
        child.kill()
        child.wait()

    assert found[0] == os.getpid()
    assert child.pid in found
