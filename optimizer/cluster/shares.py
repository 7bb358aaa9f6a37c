"""What one node holds of every limit that nodes share: the same leases as workers have, one level up.

Redis records how much of a meter each node has been granted, in absolute amounts; the node hands it on to its workers
(``optimizer.leases``) and asks for more in the background. The invariants:

- A node believes in no more than Redis has recorded for it: it lowers itself before it says so, and is raised only by
  an answer. So lost, late and repeated calls count nothing twice.
- What workers hold never exceeds what the node believes in, unless they report that they have spent more, or Redis
  could not be asked and the settings leave the measure open: the node then counts by itself, as if it was alone, up to
  the limit. Both are said as soon as Redis answers, and nobody is granted anything of what is missing.
- Redis may forget. A node then says again what it has, and every claim says what the others were last heard to have
  spent, so that what Redis can't know any more, of nodes that are dead, still counts.

Pure: time is an argument; who calls decides when to talk to Redis.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from optimizer.lease_terms import RATES, end_of
from optimizer.leases import Meter

KEPT_SHARE: Final = 256
"""At rest a node keeps at most this part of what nobody holds."""

_NEVER: Final = -(1 << 62)


class NodeClaim(NamedTuple):
    """A node's state of one meter, in the integers of ``lease_terms``.

    ``others`` is what all other nodes were last heard to have spent; ``used``, ``hold``, ``need`` and ``want`` are
    those of ``lease_terms.Claim``.
    """

    meter: Meter
    limit: int
    others: int
    used: int
    hold: int
    need: int
    want: int


class NodeGrant(NamedTuple):
    """What the node has in all, what all nodes have, and what all have spent.

    ``sequence`` is that of the claim by which the record stands.
    """

    granted: int
    total: int
    used: int
    sequence: int


class Answer(NamedTuple):
    """What Redis says. ``epoch`` is another one when it may have forgotten something.

    While it ``is_settling`` it waits for all nodes to say what they have, and grants nothing beyond ``hold``.
    """

    epoch: bytes
    is_settling: bool
    grants: Sequence[NodeGrant]


class _Share:
    __slots__ = (
        "chunk",
        "held",
        "is_unsure",
        "limit",
        "low",
        "need",
        "others",
        "out",
        "said",
        "spent",
        "total",
        "used",
    )

    def __init__(self, limit: int, others: int) -> None:
        self.limit = limit
        self.held = 0  # what this node may hand out
        self.out = 0  # what workers hold
        self.used = 0  # and what of it is spent
        self.said = 0  # what Redis knows of that
        self.others = others
        self.total = others  # what all nodes hold, by the last answer
        self.chunk = 0  # how much to be ahead by
        self.low = _NEVER  # with less than this to hand out it is time to ask
        self.need = 0
        self.spent = 0  # since the last tick
        self.is_unsure = False  # nobody knows whether the last claim arrived

    @property
    def unallocated(self) -> int:
        return max(0, self.limit - self.total)


class Shares:
    """All shares of one node.

    Args:
        others: What all other nodes were last heard to have spent, from an earlier process.
        is_open: Whether a measure is let through when nobody can be asked.
        wake: Called when there is something to ask that should not wait for the next tick.
    """

    def __init__(
        self, others: Mapping[Meter, int], *, is_open: Callable[[str], bool], wake: Callable[[], None]
    ) -> None:
        self.is_away = False
        self.is_settling = False
        self._others = dict(others)
        self.is_open = is_open
        self._wake = wake
        self._shares: dict[Meter, _Share] = {}
        self._queued: dict[Meter, None] = {}
        self._touched: dict[Meter, None] = {}
        self._epoch = b""

    # for the book

    def ceiling(self, meter: Meter, limit: int) -> int:
        """How much of ``limit`` this node's workers may hold in all."""
        share = self._share(meter, limit)
        return limit if self._is_alone(meter) else min(limit, share.held)

    def unallocated(self, meter: Meter, limit: int, granted: int) -> int:
        """How much nobody holds, as far as was last heard."""
        share = self._share(meter, limit)
        if self._is_alone(meter):
            return max(0, limit - granted)
        return max(0, min(limit, share.held) - granted) + share.unallocated

    def recover(self, meter: Meter, limit: int, granted: int, used: int) -> None:
        """Workers hold ``granted`` by an earlier process' ledger, so Redis has recorded at least that."""
        share = self._share(meter, limit)
        share.held = share.out = granted
        share.used = used
        self._queued[meter] = None

    def follow(self, meter: Meter, limit: int, granted: int, used: int, *, short: int, wish: int) -> None:
        """Workers hold ``granted`` now and have spent ``used`` of it.

        One of them has requests waiting for ``short`` more, and would like ``wish`` more.
        """
        share = self._share(meter, limit)
        share.limit = limit
        share.spent += max(0, granted - share.out)
        share.out = granted
        share.used = used
        self._touched[meter] = None
        free = share.held - granted
        if short > 0:
            share.need = min(limit, share.need + short)
        ahead = max(share.chunk, 2 * wish)
        if short > 0 or (wish > 0 and share.unallocated > 0 and 2 * free < ahead):
            share.chunk = min(limit, ahead)
            self._renew(meter, share)
        elif free < share.low:
            share.chunk = min(limit, 2 * share.chunk)
            self._renew(meter, share)

    def forget(self, meters: Iterable[Meter]) -> None:
        """These windows are over for good."""
        for meter in meters:
            self._shares.pop(meter, None)
            self._queued.pop(meter, None)
            self._touched.pop(meter, None)

    def is_known(self, meter: Meter) -> bool:
        """Whether what Redis answered last says what is left, or nobody needs to be asked."""
        return self.can_ask or self._is_alone(meter)

    @property
    def can_ask(self) -> bool:
        """Whether an answer of Redis is to be expected soon, and can help."""
        return not self.is_away and not self.is_settling

    # for who talks to Redis

    @property
    def queued(self) -> int:
        """How many meters there is something to say about."""
        return len(self._queued)

    def tick(self, now: float) -> None:
        """Look at what was spent since the last time, and keep only what the next moments will need.

        Nothing is given back while nobody can take it: what was granted may be spent.
        """
        if self.is_away:
            return
        touched, self._touched = self._touched, {}
        for meter in touched:
            share = self._shares.get(meter)
            if share is None:
                continue
            if not meter[2] <= now < end_of(meter[1], meter[2]):
                share.chunk = 0
            elif share.spent > 0:
                share.chunk = min(share.limit, 2 * share.spent)
                self._touched[meter] = None  # once more, so that a pause is noticed
            else:
                share.chunk = min(share.chunk, share.unallocated // KEPT_SHARE)
            share.spent = 0
            free = share.held - share.out
            if self.is_settling or share.is_unsure:
                self._touched[meter] = None
            if (
                free < 0
                or free > share.chunk
                or self.is_settling
                or share.is_unsure
                or share.used > share.said
            ):
                self._queued[meter] = None

    def retire(self) -> None:
        """Keep nothing beyond what workers hold."""
        for meter, share in self._shares.items():
            share.chunk = share.need = 0
            if share.held > share.out:
                self._queued[meter] = None

    def claims(self, most: int) -> list[NodeClaim]:
        """What to tell Redis next, at most so many. Lowers itself first to what it is going to keep."""
        chosen = list(self._queued)[:most]
        found = []
        for meter in chosen:
            del self._queued[meter]
            share = self._shares[meter]
            spare = min(share.held - share.out, max(share.chunk, share.need))
            if spare >= 0:
                share.held = share.out + spare
            need, share.need = share.need, 0
            spare = max(0, spare)
            found.append(
                NodeClaim(
                    meter,
                    share.limit,
                    share.others,
                    share.used,
                    max(share.held, share.out),
                    max(0, need - spare),
                    max(0, need - spare, share.chunk - spare),
                )
            )
        return found

    def take(self, claims: Sequence[NodeClaim], answer: Answer, *, sequence: int) -> None:
        """Follow Redis' answer to ``claims``, which were sent as ``sequence``."""
        was_away, self.is_away = self.is_away, False
        self.is_settling = answer.is_settling
        for claim, grant in zip(claims, answer.grants, strict=True):
            share = self._shares.get(claim.meter)
            if share is None:
                continue
            if grant.sequence != sequence:
                self._repeat(claim.meter, share)
                continue
            share.held = grant.granted
            share.total = grant.total
            share.others = max(share.others, grant.used - claim.used)
            share.said = claim.used
            share.is_unsure = False
            free = share.held - share.out
            share.low = free // 2 if share.unallocated > 0 and share.chunk > 0 else _NEVER
            self._touched[claim.meter] = None
        if was_away or answer.epoch != self._epoch:
            # It may have forgotten everything; it is said again, whatever has changed since.
            self._epoch = answer.epoch
            for meter, share in self._shares.items():
                if share.held or share.out or share.others:
                    self._queued[meter] = None

    def failed(self, claims: Sequence[NodeClaim]) -> None:
        """No answer to ``claims`` will come; Redis may have heard them all the same."""
        self.is_away = True
        for claim in claims:
            share = self._shares.get(claim.meter)
            if share is not None:
                self._repeat(claim.meter, share)
        for share in self._shares.values():
            share.need = 0

    def heard(self, claims: Sequence[NodeClaim]) -> dict[Meter, int]:
        """What other nodes have spent of the budgets among ``claims``: worth keeping, rates are soon over."""
        return {
            claim.meter: self._shares[claim.meter].others
            for claim in claims
            if claim.meter in self._shares and claim.meter[1] not in RATES
        }

    # inside

    def _share(self, meter: Meter, limit: int) -> _Share:
        share = self._shares.get(meter)
        if share is None:
            share = self._shares[meter] = _Share(limit, self._others.pop(meter, 0))
        return share

    def _is_alone(self, meter: Meter) -> bool:
        return not self.can_ask and self.is_open(meter[1])

    def _renew(self, meter: Meter, share: _Share) -> None:
        share.low = _NEVER
        if self.is_away:
            share.need = 0
            return
        self._queued[meter] = None
        if not self.is_settling:
            self._wake()

    def _repeat(self, meter: Meter, share: _Share) -> None:
        share.is_unsure = True
        self._touched[meter] = None
        self._queued[meter] = None
