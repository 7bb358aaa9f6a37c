"""What a decision may look at: features of a request, without its content ever leaving memory.

``prompt`` reads a parsed body, ``structure`` and ``task`` turn it into the built-in features, ``words`` into hashes of
words, ``projection`` learns to condense those, ``vector`` joins everything into x. Pure: no IO, no clock. Only
``words``, ``projection``, ``keeper`` and ``vector`` need numpy: workers without a contextual route never load it.
"""
