"""What to learn and what to publish. Knows no HTTP server and no configuration file format."""
