"""Carries claims to the optimizer process over its unix socket, and the grants back.

Invariant: every claim is answered exactly once, by grants or by None; a reply that comes after its time is not heard,
and the sequence number keeps the optimizer from minding a report that a later one overtook.
"""

import logging
from collections.abc import Sequence
from typing import Final

from optimizer.lease_terms import Claim, Grants, Report, decode_grants, encode_report
from proxy import headers as crossing
from proxy.admission.meter import AWAIT_S, Answer
from proxy.errors import Overloaded, UpstreamFault
from proxy.http1.client import Pool

PATH: Final = "/internal/v1/leases"
ANSWER_S: Final = 1.0
"""After this an answer is not waited for any more, by nobody; requests themselves wait far shorter."""
_MAX_BYTES: Final = 1024 * 1024

_log = logging.getLogger("llm_optimizer.limits")


class LeaseClient:
    """Sends over a pool that others use too.

    ``wait_s`` is how long a request may be held up for an answer; the optimizer says so where it has to ask in turn.
    """

    def __init__(self, pool: Pool, *, token: str, worker: int) -> None:
        self.wait_s = AWAIT_S
        self._pool = pool
        self._worker = worker
        self._sequence = 0
        self._head = (
            f"POST {PATH} HTTP/1.1\r\nhost: optimizer\r\ncontent-type: application/json\r\n"
            f"{crossing.WORKER.decode()}: {token}\r\ncontent-length: "
        ).encode()

    def ask(self, claims: Sequence[Claim], answer: Answer) -> None:
        """See ``proxy.admission.meter.Ask``."""
        self._sequence += 1
        body = encode_report(Report(self._worker, self._sequence, claims))
        head = self._head + b"%d\r\n\r\n" % len(body)
        self._pool.send(head, body, _Reply(self, answer), bound=("lease", ANSWER_S))


class _Reply:
    """Collects one reply."""

    __slots__ = ("_answer", "_body", "_client", "_status")

    def __init__(self, client: LeaseClient, answer: Answer) -> None:
        self._client = client
        self._answer = answer
        self._status = 0
        self._body = b""

    def reply_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status = status

    def reply_body(self, data: bytes) -> None:
        if len(self._body) <= _MAX_BYTES:
            self._body += data

    def reply_flush(self) -> None:
        """Only the whole reply means anything."""

    def reply_end(self) -> None:
        answer: Grants | None = None
        if self._status == 200:
            try:
                answer = decode_grants(self._body)
            except ValueError as error:
                _log.error("the optimizer's grants can't be read: %s", error)
        if answer is not None:
            self._client.wait_s = answer.wait_s or AWAIT_S
        self._answer(answer.grants if answer is not None else None)

    def reply_failed(self, fault: UpstreamFault | Overloaded) -> None:
        self._answer(None)
