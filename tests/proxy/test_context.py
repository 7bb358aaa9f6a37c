"""Features of requests as workers see them."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orjson
import pytest

from optimizer.context.features import ProjectionInfo, features_of
from optimizer.context.vector import vectorise
from optimizer.context.words import BUCKETS
from optimizer.routing import ClientFeature
from optimizer.settings import ContextSettings
from proxy.context import compile_features, extract
from proxy.envelope import parse

ROOT = Path(__file__).resolve().parents[2]
TIER = ClientFeature("tier", "header", "x-tier", values=("gold",))
CONTEXT = ContextSettings(client=(TIER,), lexical=True)
# 2 KB of prose, material and options, as a busy route would see.
TEXT = (
    "Read the report below and explain which option follows from it, with your reasoning.\n"
    + "On 14 March the Council met in Aldermoor (see annex B); 17 of 23 members voted, and the motion fell. "
    * 18
    + "\n(A) It passed\n(B) It fell\n(C) It was withdrawn"
)


@pytest.fixture(scope="module")
def plan():
    rows = np.random.default_rng(0).normal(size=(BUCKETS, 16)).astype(np.float32)
    return compile_features(features_of(CONTEXT, ProjectionInfo("prj-1", 16)), rows)


def envelope(**fields):
    body = {"model": "auto", "messages": [{"role": "user", "content": TEXT}], **fields}
    return parse("chat", orjson.dumps(body))


def test_a_worker_and_a_data_set_see_the_same(plan):
    """What is simulated from a text is what a request with that text gives."""
    extracted = extract(envelope(), {b"host": b"localhost"}, plan)
    simulated = vectorise(TEXT, plan)

    assert (extracted.x == simulated.x).all()
    assert extracted.sketch == simulated.sketch


def test_headers_and_limits_reach_the_vector(plan):
    """The envelope's output limit and the request's headers count."""
    plain = extract(envelope(), {}, plan).x
    told = extract(envelope(max_tokens=16), {b"x-tier": b"gold"}, plan).x

    assert np.count_nonzero(plain != told) == 2


def test_the_same_in_every_process(plan):
    """Hash seeds do not matter: workers of all machines agree."""
    program = (
        "import sys, hashlib, numpy as np\n"
        "from optimizer.context.features import ProjectionInfo, features_of\n"
        "from optimizer.context.vector import compile_features, vectorise\n"
        "from optimizer.settings import ContextSettings\n"
        "features = features_of(ContextSettings(lexical=True))\n"
        "found = vectorise(sys.stdin.read(), compile_features(features))\n"
        "print(features.version, found.x.tobytes().hex(), found.sketch.hex())"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={"PYTHONHASHSEED": seed},
            input=TEXT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }

    assert len(said) == 1
    assert extract(envelope(), {}, plan).sketch.hex() in said.pop()


def test_names_and_versions_need_no_numpy():
    """Whoever only asks what a vector means, as the configuration and ``explain`` do, loads nothing heavy."""
    program = (
        "import sys, optimizer.context.features, optimizer.context.structure\nprint('numpy' in sys.modules)"
    )

    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert said.stdout.strip() == "False"


def test_the_budget_of_a_request(plan):
    """2 KB with everything switched on; the quickest of many says what it costs on a machine without others."""
    request = envelope()
    assert 1900 < len(TEXT) < 2200
    best = float("inf")
    for _ in range(400):
        begun = time.perf_counter()
        extract(request, {}, plan)
        best = min(best, time.perf_counter() - begun)

    # 60 us is the budget; a busy test machine gets some air.
    assert best < 120e-6
