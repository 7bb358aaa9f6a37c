"""The short version of ``python -m loadtests.cluster chaos``: real engines, one fault each, and the same bill.

With faults of every kind, and with kills of our own processes, it is played by that command.
"""

import pytest

from loadtests.cluster.chaos import Play, perform
from loadtests.processes import Skipped

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(420)]


@pytest.mark.parametrize("members", [1, 2])
def test_nothing_is_lost(members: int) -> None:
    """Every engine is black-holed in turn; every answer and every rating is in the topic once, and learned."""
    try:
        rows = perform(Play(2000, members=members, rate=80.0, every_fault=False, kill=False))
    except Skipped as reason:
        pytest.skip(str(reason))

    assert not [(row["name"], row["value"], row["asked"], row["note"]) for row in rows if not row["holds"]]
