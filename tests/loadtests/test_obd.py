"""The Open Bandit logs: the estimate holds, and the question that can not be answered is refused."""

import pytest

from loadtests.learning.obd import OBD, evaluate


@pytest.mark.skipif(not OBD.exists(), reason="../shared/data is not on this machine")
def test_the_uniform_log_knows_what_thompson_sampling_is_worth() -> None:
    """Inside its own interval by every method; the reverse has an effective sample size of 2 and no verdict."""
    rows = evaluate(OBD)

    forward = [row for row in rows if row["verdict"] == "given"]
    reverse = [row for row in rows if row["verdict"] == "refused"]

    assert {row["question"] for row in forward} == {"Thompson sampling from the uniform log"}
    assert all(row["inside"] for row in forward)
    assert all(row["effective_size"] > 3000 for row in forward)
    assert len(reverse) == len(forward)
    assert {row["effective_size"] for row in reverse} == {2}
    assert {row["inside"] for row in reverse} == {None}
