"""What happens when an upstream fails: what went wrong, what to do next, and who is left alone for a while.

``failure`` names what went wrong with an attempt, ``follow_up`` decides about the next one, ``breaker`` remembers
which models are down. All of it is plain arithmetic: clock and randomness are passed in, nothing here awaits.
"""
