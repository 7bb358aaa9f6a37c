"""The block `tracing`: addresses, headers that are secrets, and what an export shows of them."""

from pathlib import Path

import pytest
import yaml

from optimizer.settings import TracingSettings
from proxy.config.export import effective_yaml
from proxy.config.load import Loaded, load
from proxy.config.problems import ConfigProblems


def loaded(tmp_path: Path, block: str, **environ: str) -> Loaded:
    file = tmp_path / "config.yaml"
    file.write_text(f"tracing: {block}\n")
    return load(file, environ)


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://collector:4318", "http://collector:4318/v1/traces"),
        ("https://collector/", "https://collector/v1/traces"),
        ("https://collector/otlp/v1/traces?team=a", "https://collector/otlp/v1/traces?team=a"),
    ],
)
def test_an_address_without_a_path_gets_the_usual_one(tmp_path: Path, written: str, url: str) -> None:
    assert loaded(tmp_path, f'"{written}"').settings.tracing == TracingSettings(url)


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ('{otlp_endpoint: "collector:4318"}', "must be an http:// or https:// address"),
        ('{otlp_endpoint: "http://me:pass@collector"}', "holds a password"),
        ("{sample_rate: 0.5}", "otlp_endpoint"),
        ("{otlp_endpoint: 'http://c', sample_rate: 2}", "sample_rate"),
        ("{otlp_endpoint: 'http://c', headers: {'x y': 'a'}}", "is not a header name"),
        ("{otlp_endpoint: 'http://c', headers: {Content-Type: 'a'}}", "is set anyway"),
    ],
)
def test_what_can_not_work_is_refused(tmp_path: Path, block: str, says: str) -> None:
    with pytest.raises(ConfigProblems) as refused:
        loaded(tmp_path, block)
    assert any(says in str(problem) for problem in refused.value.problems), refused.value.problems


def test_headers_are_secrets_and_an_export_loads_to_the_same(tmp_path: Path) -> None:
    headers = "{Authorization: '${TOKEN}', x-team: planted-1}"
    block = f"{{otlp_endpoint: 'http://c:4318', sample_rate: 0.25, headers: {headers}}}"
    found = loaded(tmp_path, block, TOKEN="t0k")
    assert found.settings.tracing is not None
    assert dict(found.settings.tracing.headers)["authorization"] == "env:TOKEN"
    text = effective_yaml(found)
    assert "planted-1" not in text
    assert "t0k" not in text
    written = yaml.safe_load(text)["tracing"]
    assert written["headers"]["authorization"] == "${TOKEN}"
    again = loaded(tmp_path, yaml.safe_dump(written, default_flow_style=True), TOKEN="t0k")
    assert again.settings.tracing == found.settings.tracing
