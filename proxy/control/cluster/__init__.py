"""One node of a cluster: the shards that it owns, what it hears of the others, and the table that comes of both."""
