"""``llm-optimizer demo``: the whole loop on simulated models, with traffic, grading and a live view.

Invariant: the demo is an ordinary client. It sees replies and response headers, grades the answers by
itself and posts feedback like anybody else; nothing reaches the optimizer on another way.
"""
