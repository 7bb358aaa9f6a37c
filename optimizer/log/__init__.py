"""The event log: every process appends to its own segments, any number of readers follow by position."""
