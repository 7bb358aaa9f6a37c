"""``make cluster-demo``: the story holds on real servers, one of which is killed, and its end is honest."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.demo.load import Load
from deploy.demo.stage import Stage
from deploy.demo.story import DidNotHold, Story

pytestmark = pytest.mark.nodes

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_the_story_holds_on_two_nodes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )
    if done.returncode == 2:
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout
    acts = ("healthy", "canary", "errors", "rolled back", "Kafka killed", "Kafka back", "nothing lost")
    places = [done.stdout.index(f"s  {act}") for act in acts]
    assert places == sorted(places)
    assert "everything held" in done.stdout


class Nowhere:
    """A stage whose nodes nobody answers for."""

    nodes = ("http://127.0.0.1:9",)
    kafka = "127.0.0.1:9"


async def test_a_failure_that_callers_see_ends_the_story(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setattr("deploy.demo.story.HEALTHY_S", 0.3)
    stage: Stage = Nowhere()  # type: ignore[assignment]
    with pytest.raises(DidNotHold, match=r"callers saw failures: .*ClientConnectorError"):
        await Story(stage, Console(quiet=True), per_second=50).play()
    assert Load(stage.nodes, per_second=1).seen.answered == set()
