"""The story of a cluster, told by one script on real servers: in containers, or as local processes without an engine.

It is beside the deployment and no part of the product: it starts Kafka, Redis and PostgreSQL, which the product never
does, and it uses what anybody could use, that is the configuration file, the command line, REST and the Kafka topic.
"""
