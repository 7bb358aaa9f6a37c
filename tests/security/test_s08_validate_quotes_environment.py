"""S8, MLflow CVE-2026-4035. POST /api/v1/config/validate once resolved any ${NAME} of the
optimizer's environment and quoted the value in its problems, so whoever may validate read every key of the process.
"""

import pytest

from proxy.config.load import load_text
from proxy.config.problems import ConfigProblems

CANARY = "Zq3EnvCanary61cc"


@pytest.mark.parametrize(
    "text",
    ["models: {m: {upstream: '${KEY}'}}", "routes: {r: {arms: ['${KEY}']}}", "server: {port: '${KEY}'}",
     "upstreams: {x: {base_url: '${KEY}'}}", "upstreams: {x: {base_url: 'http://h', provider: '${KEY}'}}",
     "routes: {r: {arms: [gpt-4], home: '${KEY}'}}", "routes: {r: {arms: [gpt-4], policy: '${KEY}'}}",
     "routes: {r: {arms: [gpt-4], objectives: ['${KEY}']}}", "admin: {listen: '${KEY}'}"],
)  # fmt: skip
def test_a_problem_never_quotes_the_environment(text):
    with pytest.raises(ConfigProblems) as refused:
        load_text(text, {"KEY": CANARY})
    assert CANARY not in str(refused.value)
