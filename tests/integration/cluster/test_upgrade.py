"""The short version of ``python -m loadtests.cluster upgrade``: an older program beside this one, both ways."""

import pytest

from loadtests.cluster.__main__ import OLDER
from loadtests.cluster.upgrade import perform
from loadtests.processes import Skipped

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(420)]


def test_nothing_fails_and_nothing_is_lost_on_the_way_there_and_back() -> None:
    try:
        rows = perform(OLDER, dwell_s=2.0)
    except Skipped as reason:
        pytest.skip(str(reason))

    assert not [(row["name"], row["value"], row["asked"], row["note"]) for row in rows if not row["holds"]]
