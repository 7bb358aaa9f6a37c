"""Minutes of mixed load on the real product with faults injected: does anything grow, leak, fail or get lost?

``python -m loadtests.soak --minutes 20``; an interrupted run ends early and gives its verdict on what it has.
"""
