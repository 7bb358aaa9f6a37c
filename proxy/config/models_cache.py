"""The block about answers that a route keeps."""

from typing import Annotated, Any, Literal

from pydantic import Field

from proxy.config.models_base import Block, Count, Positive, switched_off

LONGEST_TTL_S = 30 * 86400
LARGEST_ENTRY_BYTES = 16 * 1024 * 1024


class CacheBlock(Block):
    """Answers that are kept for requests that are exactly the same. `true` is short for the defaults."""

    enabled: bool = Field(default=True, description="`cache: false` is short for `{enabled: false}`.")
    ttl_sec: Annotated[Positive, Field(le=LONGEST_TTL_S)] = Field(
        default=300, description="How long an answer is given again."
    )
    max_entry_bytes: Annotated[Count, Field(le=LARGEST_ENTRY_BYTES)] = Field(
        default=256 * 1024, description="A larger answer is not kept."
    )
    shared_between_keys: bool = Field(
        default=False,
        description="One caller may get what was answered to another who asked exactly the same. Left out: every "
        "client key, or without client keys every credential that is sent, has answers of its own.",
    )
    store: Literal["memory", "redis"] = Field(
        default="memory",
        description="`redis` keeps answers in the Redis of `redis.url` as well, for all workers and nodes.",
    )
    temperature_zero_only: bool = Field(
        default=False,
        description="Only requests that ask for `temperature: 0`; embeddings always.",
    )

    @classmethod
    def shorthand(cls, value: Any) -> Any:
        """``true`` and ``false`` switch it on and off."""
        if switched_off(value):
            return {"enabled": False}
        if value is True or (isinstance(value, str) and value.strip().lower() in ("true", "on", "yes", "1")):
            return {"enabled": True}
        return super().shorthand(value)
