"""While Redis is away nobody is heard of, but who owned what is known, and can be asked: a rollback finds its way."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.control.cluster.neighbours import ALIVE_S

pytestmark = pytest.mark.nodes


def _cluster(directory: Path) -> Any:
    transport = httpx.HTTPTransport(uds=str(directory / "run" / "optimizer.sock"))
    key = (directory / "secrets" / "admin.key").read_text().strip()
    with httpx.Client(transport=transport, headers={"authorization": f"Bearer {key}"}) as client:
        return client.get("http://localhost/api/v1/cluster", timeout=20).raise_for_status().json()


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_owners_that_were_heard_of_last_are_asked(house, until) -> None:
    one, two = house.node(), house.node()
    one.start()
    two.start()
    until(lambda: len(set(house.owners().values())) == 2, 60)
    until(lambda: all(row["owner"] for row in _cluster(one.directory)["shards"]), 30)
    before = [row["owner"] for row in _cluster(one.directory)["shards"]]
    house.redis.kill()
    try:
        until(lambda: min(row["age_s"] for row in _cluster(one.directory)["nodes"]) > ALIVE_S + 1)
        found = _cluster(one.directory)
        assert [row["owner"] for row in found["shards"]] == before
        (other,) = [row for row in found["nodes"] if not row["is_this"]]
        # Nothing listens there in this test: it was asked.
        assert other["reason"].startswith("can't be connected to")
    finally:
        house.redis.start()
    one.stop()
    two.stop()
