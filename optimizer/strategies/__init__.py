"""Strategies: each reads evidence about one route and proposes a change to it, or says why not."""
