"""Replaying the event log under another policy: what it would have cost, and how good it would have been."""
