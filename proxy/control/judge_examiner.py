"""One sample before its judge: what is asked, in which order, what it may cost, and what came of it.

Nothing is asked before its cost is set aside, and a judge that does not answer is told apart from one that answers
nonsense: the first is asked again later, the second costs the sample. Answers are compared in both orders.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Any, Final

import orjson

from optimizer.judging import rubric, verdict
from optimizer.judging.sample import Sample, question_of
from optimizer.routing import CHAT, RESPONSES, Arm, Model, Upstream, Variant
from optimizer.settings import JudgeSettings, RouteSettings, Settings
from proxy.control.judge_caller import Answer, Asked, Caller, CallFault
from proxy.envelope import Envelope, parse
from proxy.errors import ProxyError
from proxy.pricing import PER

SCORED: Final = "scored"
FAILED: Final = "failed"
REFUSED: Final = "refused"
OVER_BUDGET: Final = "over_budget"
EXPIRED: Final = "expired"
RESULTS: Final = (SCORED, FAILED, REFUSED, OVER_BUDGET, EXPIRED)

SCORE: Final = "score"
PAIR: Final = "pair"

# Tokenizers cut text into no more pieces than this many characters each, nearly always.
_CHARS_PER_TOKEN: Final = 3
_REPLY_TOKENS: Final = 1024
_AGAIN: Final = {"role": "user", "content": "Repeat only the last line, the JSON."}
_IDENTITY: Final = Variant(name="default", key="")
_ASKED_DIFFERENTLY: Final = frozenset(("stream", "stream_options", "user", "metadata", "store"))

Reserve = Callable[[float], Awaitable[bool]]
"""Sets USD aside; False when the budget does not allow it."""
Settle = Callable[[float, float], None]
"""Takes what was set aside and what was spent."""


@dataclass(frozen=True, slots=True)
class Bench:
    """A judge ready to work: its settings, its model and where that is."""

    judge: JudgeSettings
    model: Model
    upstream: Upstream

    @property
    def source(self) -> str:
        """Under which its feedback arrives."""
        return rubric.source_of(self.judge.name, self.judge.version)


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of a sample. ``value`` 0..1 when it was scored; ``word`` says why not."""

    kind: str
    result: str
    cost_usd: float = 0.0
    value: float | None = None
    word: str | None = None
    other: Arm | None = None
    consistent: bool | None = None


class Examiner:
    """Asks for one sample at a time. ``caller`` reaches models; one for all judges."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._plain: set[str] = set()  # judges whose models take no sampling parameters

    async def score(self, sample: Sample, bench: Bench, reserve: Reserve, settle: Settle) -> Finding:
        """Rate one answer.

        Raises:
            CallFault: The judge can not be asked now; nothing is known of the sample.
        """
        messages = rubric.score_messages(
            bench.judge.rubric, question_of(sample), sample.answer, mark=rubric.mark_of(sample.request_id)
        )
        heard = _Heard()
        try:
            value = await self._hear(bench, messages, verdict.read_score, reserve, settle, heard)
        except CallFault as fault:
            if not fault.blames_request:
                raise
            return Finding(SCORE, FAILED, heard.cost_usd, word=fault.word)
        if value is not None:
            return Finding(SCORE, SCORED, heard.cost_usd, value)
        if heard.stopped:
            return Finding(SCORE, OVER_BUDGET, heard.cost_usd)
        return Finding(SCORE, REFUSED if heard.refused else FAILED, heard.cost_usd, word="unreadable")

    async def compare(
        self, sample: Sample, other: Asked, bench: Bench, reserve: Reserve, settle: Settle
    ) -> Finding:
        """Let ``other`` answer what was asked, and say how much better the sample's answer is: 1, 0.5 or 0.

        Raises:
            CallFault: Somebody can not be asked now.
        """
        heard = _Heard()
        finding = Finding(PAIR, FAILED, other=other.arm)
        try:
            answer = await self._ask(
                other, _cost_of(other.model, len(other.envelope.raw)), reserve, settle, heard
            )
            if answer is None:
                return replace(finding, result=OVER_BUDGET)
            if not answer.text:
                return replace(finding, cost_usd=heard.cost_usd, word="no_text")
            said = [
                await self._hear(
                    bench,
                    rubric.pair_messages(
                        bench.judge.rubric, question_of(sample), *pair, mark=rubric.mark_of(sample.request_id)
                    ),
                    verdict.read_winner,
                    reserve,
                    settle,
                    heard,
                )
                for pair in ((sample.answer, answer.text), (answer.text, sample.answer))
            ]
        except CallFault as fault:
            if not fault.blames_request:
                raise
            return replace(finding, cost_usd=heard.cost_usd, word=fault.word)
        forward, backward = said
        if forward is None or backward is None:
            result = OVER_BUDGET if heard.stopped else REFUSED if heard.refused else FAILED
            return replace(finding, result=result, cost_usd=heard.cost_usd, word="unreadable")
        return replace(
            finding,
            result=SCORED,
            cost_usd=heard.cost_usd,
            value=verdict.preference(forward, backward),
            consistent=verdict.is_consistent(forward, backward),
        )

    async def _hear(
        self,
        bench: Bench,
        messages: rubric.Messages,
        read: Callable[[str], Any],
        reserve: Reserve,
        settle: Settle,
        heard: "_Heard",
    ) -> Any:
        """What the judge says, read; asked once more when it can't be. None without anything readable."""
        for _ in range(2):
            answer = await self._ask_judge(bench, messages, reserve, settle, heard)
            if answer is None:
                return None
            found = read(answer.text or "")
            if found is not None:
                return found
            heard.refused = answer.refused
            messages = [*messages, {"role": "assistant", "content": answer.text or "-"}, _AGAIN]
        return None

    async def _ask_judge(
        self, bench: Bench, messages: rubric.Messages, reserve: Reserve, settle: Settle, heard: "_Heard"
    ) -> Answer | None:
        body: dict[str, Any] = {"model": bench.model.model_id, "messages": messages}
        expected = _cost_of(bench.model, len(orjson.dumps(messages)), rubric.ANSWER_TOKENS)
        key = bench.model.key
        if key not in self._plain:
            limited = body | {"temperature": 0, "max_tokens": rubric.ANSWER_TOKENS}
            try:
                return await self._ask(_judging(bench, limited), expected, reserve, settle, heard)
            except CallFault as fault:
                # Reasoning models take neither a temperature nor this limit.
                if fault.word != "bad_request":
                    raise
        answer = await self._ask(_judging(bench, body), expected, reserve, settle, heard)
        self._plain.add(key)
        return answer

    async def _ask(
        self, asked: Asked, expected_usd: float, reserve: Reserve, settle: Settle, heard: "_Heard"
    ) -> Answer | None:
        """One call, paid for; None when the budget does not allow it."""
        if not await reserve(expected_usd):
            heard.stopped = True
            return None
        spent = expected_usd  # Also when this task is cut: the call may have been made.
        try:
            answer = await self._caller(asked)
            spent = answer.cost_usd if answer.cost_usd is not None else expected_usd
        except CallFault as fault:
            spent = expected_usd if fault.charged else 0.0
            raise
        finally:
            settle(expected_usd, spent)
            heard.cost_usd += spent
        return answer


@dataclass(slots=True)
class _Heard:
    """What a sample's calls came to."""

    cost_usd: float = 0.0
    refused: bool = False
    stopped: bool = False


def counterpart(sample: Sample, route: RouteSettings, settings: Settings) -> Asked | None:
    """The same request for another prompt of the same model; None when there is none, or it can not be repeated.

    Which of several is a hash of the request's id, so asking again asks the same one.
    """
    others = [
        arm
        for arm in route.arms
        if arm.model_key == sample.model_key and arm.variant_key != sample.variant_key
    ]
    if not others:
        return None
    digest = blake2b(sample.request_id.encode(), digest_size=8, person=b"pair").digest()
    arm = others[int.from_bytes(digest, "big") % len(others)]
    found = find_model(settings, arm.model)
    variant = next((variant for variant in settings.variants if variant.name == arm.variant), _IDENTITY)
    body = {name: value for name, value in sample.body.items() if name not in _ASKED_DIFFERENTLY}
    if sample.endpoint == RESPONSES:
        body["store"] = False
    envelope = _parsed(sample.endpoint, body)
    if found is None or envelope is None or envelope.stateful or "tools" in envelope.needs:
        return None
    model, upstream = found
    return None if upstream.auth == "passthrough" else Asked(envelope, arm, model, variant, upstream)


def find_model(settings: Settings, name: str) -> tuple[Model, Upstream] | None:
    """A configured model and where it is."""
    model = next((model for model in settings.models if model.name == name), None)
    upstream = next(
        (row for row in settings.upstreams if model is not None and row.name == model.upstream), None
    )
    return (model, upstream) if model is not None and upstream is not None else None


def _judging(bench: Bench, body: dict[str, Any]) -> Asked:
    model = bench.model
    arm = Arm(id=model.name, model=model.name, variant=_IDENTITY.name, model_key=model.key, variant_key="")
    envelope = parse(CHAT, orjson.dumps(body))
    return Asked(envelope, arm, model, _IDENTITY, bench.upstream)


def _parsed(endpoint: str, body: dict[str, Any]) -> Envelope | None:
    try:
        return parse(endpoint, orjson.dumps(body))
    except (ProxyError, orjson.JSONEncodeError):
        return None


def _cost_of(model: Model, characters: int, reply_tokens: int = _REPLY_TOKENS) -> float:
    """The most that a call is expected to cost; 0 for a model without a price."""
    price = model.price
    if price is None:
        return 0.0
    return (
        price.request_usd + (characters / _CHARS_PER_TOKEN * price.input + reply_tokens * price.output) / PER
    )
