"""Measures what learning is worth on recorded data: every table of ``docs/learning.md`` by one command.

``python -m loadtests.learning`` from the root of the repository. Data sets are read where they lie and never copied;
where one is absent its table is skipped by name.
"""
