"""Several nodes as one: who learns which routes, from which log, and how everybody hears of it.

The log is a Kafka topic, keyed by route; a partition of it is a shard; the consumer group says who owns which.
PostgreSQL numbers the owners and keeps what they learned, Redis carries their tables to all nodes. Nothing in here is
waited for by a request, and any of the three may be away.
"""
