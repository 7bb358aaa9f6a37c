"""Keys that all nodes of a cluster share, derived from its one secret, each for one purpose."""

from hashlib import blake2b

LEAST_BYTES = 16
"""A shorter secret could be guessed from a request id that somebody has seen."""


def derived(secret: str, purpose: str) -> bytes:
    """32 bytes that tell nothing about the secret, nor about what was derived for another purpose.

    Raises:
        ValueError: The secret is too short.
    """
    if len(secret.encode()) < LEAST_BYTES:
        raise ValueError(f"the cluster's secret must have at least {LEAST_BYTES} bytes")
    stretched = blake2b(secret.encode(), digest_size=64, person=b"llm-opt-cluster").digest()
    return blake2b(purpose.encode(), key=stretched, digest_size=32).digest()
