"""What the cluster must show: ``python -m loadtests.cluster``; figures in ``docs/operations.md``.

Invariant: everything is driven through what anybody can reach: configuration file, ``serve``, HTTP, topic, state
directories.
"""
