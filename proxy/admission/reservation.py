"""What one request has set aside of the limits that it counts against, from its admission to its end."""

from collections.abc import Callable
from typing import Protocol

from optimizer.lease_terms import nano
from proxy.admission.lease import AMOUNT_OF, Meter, Parts, header_lines


class Holder(Protocol):
    """Who keeps the meters."""

    now: Callable[[], float]

    def touch(self, meter: Meter) -> None: ...


class Reservation:
    """What one request has reserved. Ends with exactly one ``settle`` or ``cancel``; later calls do nothing."""

    __slots__ = ("_is_open", "_meters", "_parts")

    def __init__(self, meters: Holder, parts: Parts) -> None:
        self._meters = meters
        self._parts = parts
        self._is_open = True

    @property
    def headers(self) -> bytes:
        """Header lines about the tightest rate limits, as OpenAI spells them; empty when there is none."""
        return header_lines(self._parts, self._meters.now())

    def settle(self, *, tokens: int | None, usd: float | None) -> None:
        """Charge what it really was, and give the rest back; None is unknown and charges what was reserved."""
        if not self._is_open:
            return
        self._is_open = False
        charged = (1, tokens, None if usd is None else nano(usd))
        for meter, amount in self._parts:
            actual = charged[AMOUNT_OF[meter.measure]]
            cost = amount if actual is None else max(0, actual)
            meter.reserved -= amount
            meter.used += cost
            meter.free += amount - cost
            if not meter.touched:
                self._meters.touch(meter)

    def cancel(self) -> None:
        """Nothing was sent upstream: everything goes back."""
        if not self._is_open:
            return
        self._is_open = False
        for meter, amount in self._parts:
            meter.reserved -= amount
            meter.free += amount
            meter.spent -= amount
            if not meter.touched:
                self._meters.touch(meter)
