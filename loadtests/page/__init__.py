"""The operator's page in a real browser: pictures of every view, and what it costs."""
