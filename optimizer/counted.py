"""Which feedback was counted before: hashes of what makes two pieces of it the same, kept for as long as it may come.

The first one wins, however often it comes again, over restarts too: a store keeps what was committed.
"""

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Final

from optimizer.store import Identity

# Sources that may rate one metric of one request; more would let one caller drown the ratings of all others.
MAX_SOURCES: Final = 16


class Counted:
    """What was counted since the last commit, before what was committed. Days are those of the decision."""

    def __init__(self, was_committed: Callable[[Identity], bool]) -> None:
        self._was_committed = was_committed
        self._fresh: dict[Identity, None] = {}

    @property
    def fresh(self) -> tuple[Identity, ...]:
        """What a store must remember."""
        return tuple(self._fresh)

    def committed(self) -> None:
        """The store remembers it."""
        self._fresh.clear()

    def once(self, day: int, *parts: str) -> bool:
        """Count what ``parts`` name; False if it was counted before."""
        identity = (day, _hash(*parts))
        if self._has(identity):
            return False
        self._fresh[identity] = None
        return True

    def rating(
        self, day: int, request_id: str, signal: str, *, source: str | None, key: str | None
    ) -> str | None:
        """Count a rating, or say why not.

        A request is rated once per signal by each ``source``, once under each ``key``, and by so many sources at most.
        Without a source only the key makes it one and the same.
        """
        identities = [] if key is None else [(day, _hash("key", key))]
        if source is not None:
            identities.append((day, _hash("source", request_id, signal, source)))
        if any(self._has(identity) for identity in identities):
            return "feedback_repeated"
        # The first place that nobody has taken: so many sources may rate one metric of one request, and no more.
        places = ((day, _hash("place", request_id, signal, str(n))) for n in range(MAX_SOURCES))
        place = next((place for place in places if not self._has(place)), None)
        if place is None:
            return "feedback_too_many_sources"
        self._keep((*identities, place))
        return None

    def _has(self, identity: Identity) -> bool:
        return identity in self._fresh or self._was_committed(identity)

    def _keep(self, identities: Iterable[Identity]) -> None:
        self._fresh.update(dict.fromkeys(identities))


def _hash(*parts: str) -> int:
    digest = blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
