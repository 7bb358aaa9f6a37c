"""``POST /v1/feedback`` in a worker: check, append to the log, answer. Learning happens elsewhere.

Ids are verified by their MAC, so a forged or foreign request id is refused without a look-up. While client keys are
asked for, a caller may rate the requests of its own key only; those of others look like ids that never existed.
Feedback that names a provider's response id goes to the optimizer process, which keeps the index of those.
"""

from time import time

import orjson

from optimizer import events
from optimizer.feedback import FeedbackProblem, parse_feedback, to_event
from optimizer.ids import verify
from optimizer.keys import ClientKey
from optimizer.log.writer import LogWriter, encode
from proxy.admin_link import AdminLink
from proxy.admission.keyring import KeyRefused, Keyring
from proxy.errors import Overloaded, error_body
from proxy.http1.messages import Request, Responder

_JSON = b"content-type: application/json\r\n"


class FeedbackEndpoint:
    """Takes feedback for this node's requests."""

    def __init__(
        self, *, log: LogWriter, source: str, key: bytes, admin: AdminLink, keyring: Keyring
    ) -> None:
        self._log = log
        self._source = source
        self._key = key
        self._admin = admin
        self._keyring = keyring

    def post(self, request: Request, responder: Responder) -> None:
        """Take what ``request.caller`` says of its own requests; without client keys, of any."""
        caller: ClientKey | None = request.caller
        if caller is None and self._keyring.required:
            refused = KeyRefused("Feedback needs the API key of the request that it is about.")
            responder.reply(refused.status, _JSON, refused.body())
            return
        try:
            items = parse_feedback(_loads(request.body))
        except FeedbackProblem as problem:
            _refuse(responder, 400, str(problem), problem.path, "invalid_feedback")
            return
        if any(item.request_id is None for item in items):
            self._admin.forward(request, responder)
            return
        named = []
        for index, item in enumerate(items):
            request_id = item.request_id or ""
            genuine = verify(request_id, self._key)
            if genuine is None or (caller is not None and genuine.key_tag != caller.tag):
                _refuse(
                    responder,
                    404,
                    f"feedback[{index}].request_id is not an id that this proxy gave out "
                    "(the x-llm-optimizer-request-id header of the answer).",
                    "request_id",
                    "unknown_request_id",
                )
                return
            named.append(to_event(item, request_id=request_id))
        now_ms = int(time() * 1000)
        lost = self._log.lost.total()
        for event_id, data in named:
            self._log.append(encode(event_id, events.FEEDBACK, self._source, now_ms, data))
        if self._log.lost.total() != lost:
            # Posting the same again is harmless: the ids of the events are fixed.
            full = Overloaded("The feedback could not be kept (the log is full or read-only). Post it again.")
            responder.reply(full.status, _JSON + b"retry-after: 5\r\n", full.body())
            return
        responder.reply(200, _JSON, orjson.dumps({"object": "feedback", "accepted": len(items)}))


def _loads(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise FeedbackProblem("", f"The body is not valid JSON: {error}") from error


def _refuse(responder: Responder, status: int, message: str, path: str, code: str) -> None:
    responder.reply(
        status,
        _JSON,
        error_body(message, kind="invalid_request_error", code=code, param=path or None),
    )
