"""Load tests: the mock upstream, the peers, the load generators, the scenarios and their budgets.

Everything here talks to loopback only and is bounded in count and time. See README.md.
"""
