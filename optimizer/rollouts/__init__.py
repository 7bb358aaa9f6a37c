"""Optimizations and how they reach traffic: records, the state machine, guards, overlays, the controller."""
