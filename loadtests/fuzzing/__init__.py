"""Fuzzing of the parsers of our own: a seeded mutator, targets with their invariants, a runner.

``tests/fuzz`` runs every target for a moment with a fixed seed; ``python -m loadtests.fuzz`` runs them for minutes.
"""
