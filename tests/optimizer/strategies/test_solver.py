"""The linear program: against all vertices by enumeration, and at its edges."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.strategies.solver import Constraint, LinearSolver, Task

SOLVER = LinearSolver()
COARSE = st.integers(-20, 20).map(lambda value: value / 10.0)


def task(charges, constraints=(), *, floors=None, free=None) -> Task:
    n = len(charges)
    return Task(
        np.array(charges, dtype=float),
        [
            Constraint(f"c{i}", np.array(values, dtype=float), least)
            for i, (values, least) in enumerate(constraints)
        ],
        np.zeros(n) if floors is None else np.array(floors, dtype=float),
        np.ones(n, dtype=bool) if free is None else np.array(free),
    )


def best_vertex(given_task: Task) -> float | None:
    """The least charges over every vertex of the polytope, found by solving every square system."""
    n = len(given_task.charges)
    rows = [np.eye(n)[i] for i in range(n)] + [c.values for c in given_task.constraints]
    bounds = [*given_task.floors, *(c.least for c in given_task.constraints)]
    best = None
    for chosen in combinations(range(len(rows)), n - 1):
        matrix = np.array([np.ones(n), *(rows[i] for i in chosen)])
        if abs(np.linalg.det(matrix)) < 1e-9:
            continue
        x = np.linalg.solve(matrix, np.array([1.0, *(bounds[i] for i in chosen)]))
        if all(row @ x >= bound - 1e-9 for row, bound in zip(rows, bounds, strict=True)):
            value = float(given_task.charges @ x)
            best = value if best is None else min(best, value)
    return best


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    n = draw(st.integers(2, 5))
    vectors = st.lists(COARSE, min_size=n, max_size=n)
    constraints = draw(st.lists(st.tuples(vectors, COARSE), max_size=3))
    return task(draw(vectors), constraints, floors=[draw(st.sampled_from((0.0, 0.02)))] * n)


@settings(max_examples=300, deadline=None)
@given(tasks())
def test_the_answer_is_the_best_vertex(given_task: Task) -> None:
    """As cheap as the best vertex (up to the rounding margin), and it keeps every constraint; None only without any."""
    shares, best = SOLVER.solve(given_task), best_vertex(given_task)
    if best is None:
        assert shares is None
        return
    if shares is None:
        # The margin for rounding may close a polytope that is thinner than it.
        tight = [Constraint(c.name, c.values, c.least + 2e-4) for c in given_task.constraints]
        assert best_vertex(Task(given_task.charges, tight, given_task.floors, given_task.free)) is None
        return
    assert shares.sum() == pytest.approx(1.0)
    assert (shares >= given_task.floors - 1e-9).all()
    assert all(constraint.slack(shares) >= 0.0 for constraint in given_task.constraints)
    assert float(given_task.charges @ shares) >= best - 1e-6
    loose = [Constraint(c.name, c.values, c.least + 2e-4) for c in given_task.constraints]
    bound = best_vertex(Task(given_task.charges, loose, given_task.floors, given_task.free))
    if bound is not None:
        assert float(given_task.charges @ shares) <= bound + 1e-6


@settings(max_examples=50, deadline=None)
@given(tasks())
def test_the_same_task_has_one_answer(given_task: Task) -> None:
    first, second = SOLVER.solve(given_task), SOLVER.solve(given_task)
    assert (first is None) == (second is None)
    assert first is None or second is None or (first == second).all()


def test_the_cheapest_arm_gets_what_the_floors_leave() -> None:
    shares = SOLVER.solve(task([3.0, 1.0, 2.0], floors=[0.02] * 3))
    assert shares == pytest.approx([0.02, 0.96, 0.02])


def test_an_arm_that_is_not_free_stays_at_its_floor() -> None:
    shares = SOLVER.solve(task([3.0, 1.0, 2.0], floors=[0.02] * 3, free=[True, False, True]))
    assert shares == pytest.approx([0.02, 0.02, 0.96])


def test_a_constraint_mixes_two_arms() -> None:
    """Half of an arm with quality 1 and half of one with 0 give 0.5."""
    shares = SOLVER.solve(task([1.0, 0.0], [([1.0, 0.0], 0.5)]))
    assert shares == pytest.approx([0.5, 0.5], abs=1e-5)


def test_what_can_not_be_kept_has_no_answer() -> None:
    assert SOLVER.solve(task([1.0, 0.0], [([1.0, 0.5], 1.5)])) is None
    assert SOLVER.solve(task([1.0, 0.0], floors=[0.7, 0.7])) is None


def test_without_anything_free_only_complete_floors_are_an_answer() -> None:
    assert SOLVER.solve(task([1.0, 0.0], floors=[0.5, 0.5], free=[False, False])) == pytest.approx([0.5, 0.5])
    assert SOLVER.solve(task([1.0, 0.0], floors=[0.3, 0.5], free=[False, False])) is None
    assert SOLVER.solve(task([1.0, 0.0], [([1.0, 0.0], 0.9)], floors=[0.5, 0.5], free=[False, False])) is None


def test_units_do_not_matter() -> None:
    """Millionths of a dollar are as good a charge as dollars."""
    shares = SOLVER.solve(task([3e-7, 1e-7], [([-3e-7, -1e-7], -2e-7), ([1.0, 0.0], 0.25)]))
    assert shares == pytest.approx([0.25, 0.75], abs=1e-5)


def test_fifty_arms_are_no_trouble() -> None:
    rng = np.random.default_rng(7)
    charges, quality, success = rng.random(50), rng.random(50), rng.random(50)
    shares = SOLVER.solve(task(charges, [(quality, 0.6), (success, 0.5)], floors=[0.01] * 50))
    assert shares is not None
    assert float(shares @ quality) >= 0.6
    assert int((shares > 0.01 + 1e-9).sum()) <= 3
