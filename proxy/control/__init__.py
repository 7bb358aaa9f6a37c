"""The optimizer process: composition root, admin surface, configuration reload, metrics, background tasks."""
