"""Saying no: what the person who asked for a replay is told instead of numbers."""


class ReplayRefused(Exception):
    """Why there is nothing to say, as a sentence."""
