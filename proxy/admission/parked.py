"""A request that waits before anything was sent upstream, and what its client does meanwhile."""

from proxy.admission.rate_limited import RateLimited


class Parked:
    """Listens to the client of a request that waits, and keeps what it sends."""

    __slots__ = ("body", "ended", "gone")

    def __init__(self) -> None:
        self.body: list[bytes] = []
        self.ended = False
        self.gone = False

    def client_body(self, data: bytes) -> None:
        self.body.append(data)

    def client_end(self) -> None:
        self.ended = True

    def client_gone(self) -> None:
        self.gone = True

    def client_paused(self) -> None:
        """Nothing is being sent to it."""

    def client_resumed(self) -> None:
        """See ``client_paused``."""

    def server_stopping(self) -> None:
        """The engine answers for who has not begun."""


def gone() -> RateLimited:
    """The end of a request whose client did not wait."""
    return RateLimited("The caller left.", status=499, code="client_gone", kind="requests", retry_after_s=0.0)
