"""Real engines for tests and demonstrations: a Kafka broker, a Redis server, and a relay that can black-hole them.

Each is a process (the relay: a thread) of its own on loopback, in a directory of its own, on ports that stay the same
when it is killed and started again. What a machine lacks is raised as ``Missing``, with the way to get it.
"""
