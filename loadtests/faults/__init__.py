"""Upstreams that fail in every way we know of, what the product makes of each, and a score card.

``python -m loadtests.faults`` plays every scenario against the product and against a plain pass-through.
``tests/integration/faults`` plays the same table as test cases.
"""
