"""An OpenAI-compatible upstream that behaves like several models: for demos, staging and tests.

Invariant: a model's answer depends only on the seed, the request and how often that request was seen
before; nobody is told how good a model is. Whoever wants to know has to grade the answers.
"""
