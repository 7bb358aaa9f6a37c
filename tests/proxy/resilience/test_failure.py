"""What an attempt's failure is taken for."""

import math
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import (
    ClientFault,
    ConnectFault,
    CredentialsRefused,
    Overloaded,
    ProtocolFault,
    ProxyError,
    ResetFault,
    TimeoutFault,
    Unavailable,
    UpstreamFault,
)
from proxy.resilience.failure import (
    LONGEST_RETRY_AFTER_S,
    Failure,
    Kind,
    of_fault,
    of_status,
    retry_after_s,
)

NOW = 1_795_000_000.0


def read(status, *, code=None, kind=None, message="", headers=(), own_key=True):
    return of_status(status, own_key=own_key, code=code, kind=kind, message=message, headers=headers, now=NOW)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (ConnectFault("refused"), Kind.CONNECT),
        (ResetFault("reset"), Kind.RESET),
        (ProtocolFault("nonsense"), Kind.BROKEN),
        (Overloaded("full"), Kind.BUSY),
        (Unavailable("none"), Kind.BUSY),
        (CredentialsRefused("one", 401), Kind.CREDENTIALS),
        (UpstreamFault("other"), Kind.TRANSIENT),
        (ClientFault("wrong"), Kind.CALLER),
        (ProxyError("a defect of ours"), Kind.CALLER),
        *(
            (TimeoutFault(phase, 1.0), Kind.SILENT)
            for phase in ("connect", "first_byte", "first_token", "idle", "total")
        ),
    ],
)
def test_faults_of_our_own_making_have_their_kind(fault, kind):
    """The transport's faults by who is to blame, and our own bounds."""
    assert of_fault(fault).kind is kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, Kind.BROKEN),
        (302, Kind.BROKEN),
        (400, Kind.CALLER),
        (401, Kind.CREDENTIALS),
        (402, Kind.CREDENTIALS),
        (403, Kind.CREDENTIALS),
        (404, Kind.CALLER),
        (408, Kind.TRANSIENT),
        (409, Kind.TRANSIENT),
        (413, Kind.CALLER),
        (422, Kind.CALLER),
        (429, Kind.RATE_LIMITED),
        (500, Kind.TRANSIENT),
        (502, Kind.TRANSIENT),
        (503, Kind.TRANSIENT),
        (504, Kind.TRANSIENT),
        (529, Kind.TRANSIENT),
    ],
)
def test_a_bare_status_has_its_kind(status, kind):
    """Without a word of explanation."""
    assert read(status) == Failure(kind, status=status)


@pytest.mark.parametrize(
    ("code", "kind", "message", "expected"),
    [
        (None, "server_error", "The server had an error", Kind.BROKEN),
        ("rate_limit_exceeded", "tokens", "", Kind.RATE_LIMITED),
        (None, "rate_limit_error", "", Kind.RATE_LIMITED),
        ("400", None, "This endpoint's maximum context length is 128000 tokens.", Kind.CONTEXT),
        ("content_filter", None, "", Kind.POLICY),
    ],
)
def test_an_error_inside_a_reply_that_began_well_keeps_its_meaning(code, kind, message, expected):
    """Streams and some gateways say 200 first and what is wrong then."""
    found = read(200, code=code, kind=kind, message=message)

    assert (found.kind, found.retry_same) == (expected, None)


@pytest.mark.parametrize("status", [401, 402, 403])
def test_a_callers_own_key_is_the_callers_business(status):
    """Only a refusal of our key is a matter of the upstream's configuration."""
    assert read(status, own_key=False).kind is Kind.CALLER


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "context_length_exceeded", ""),
        (
            400,
            None,
            "This model's maximum context length is 8192 tokens. However, your messages resulted in 9001 tokens.",
        ),
        (
            400,
            None,
            "Your input exceeds the context window of this model. Please adjust your input and try again.",
        ),
        (400, None, "prompt is too long: 213462 tokens > 200000 maximum"),
        (400, None, "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000, decrease"),
        (400, None, "The model returned the following errors: Input is too long for requested model."),
        (
            400,
            "400",
            "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).",
        ),
        (400, None, "This model's maximum prompt length is 131072 but the request contains 537812 tokens."),
        (413, None, "Please reduce the length of the messages or completion."),
        (
            400,
            "400",
            "This endpoint's maximum context length is 128000 tokens. However, you requested about 1",
        ),
        (400, None, "The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
        (400, None, "The input (9000 tokens) is longer than the model's context length (8192 tokens)."),
        (400, None, "Requested token count exceeds the model's maximum context length of 202752 tokens."),
        (
            400,
            "3051",
            "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context",
        ),
        (400, "400", "the request exceeds the available context size. try increasing the context size"),
        (
            400,
            None,
            "The number of tokens to keep from the initial prompt is greater than the context length.",
        ),
        (
            422,
            None,
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000",
        ),
        (400, None, "too many tokens: total number of tokens in the prompt cannot exceed 4081"),
        (400, None, "Invalid request: Your request exceeded model token limit: 8192"),
        (400, None, "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 129024]"),
        (400, None, "the input length exceeds the context length"),
    ],
)
def test_a_request_that_does_not_fit_is_told_apart(status, code, message):
    """In the words of OpenAI, Anthropic, Bedrock, Gemini, xAI, Groq, vLLM, SGLang, Mistral, llama.cpp and others."""
    found = read(status, code=code, message=message)

    assert found.kind is Kind.CONTEXT
    assert not found.blames_arm


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.",
        "Invalid value for 'messages[0].content': expected a string.",
        "messages.0: tool results must follow tool uses in the context of a turn",
        "Request exceeds the maximum size of 32 MB",
    ],
)
def test_other_complaints_about_sizes_are_the_callers(message):
    """A larger context would not help."""
    assert read(400, message=message).kind is Kind.CALLER


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "content_filter", "The response was filtered"),
        (
            400,
            None,
            "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        ),
        (400, "content_policy_violation", ""),
        (400, "moderation_blocked", ""),
        (400, "invalid_prompt", "Your prompt was flagged as potentially violating our usage policy."),
        (400, None, "Output blocked by content filtering policy"),
        (400, None, "Your request was rejected as a result of our safety system."),
        (403, None, "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE"),
        (
            403,
            "403",
            'x/y requires moderation on Z. Your input was flagged for "violence". No credits were charged.',
        ),
    ],
)
def test_content_policies_are_told_apart(status, code, message):
    """Another model may not be asked instead, and 403 is not about our key then."""
    assert read(status, code=code, message=message).kind is Kind.POLICY


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("model_not_found", ""),
        ("DeploymentNotFound", "The API deployment for this resource does not exist."),
        (None, "The model `gpt-9` does not exist or you do not have access to it."),
        (None, 'model "llama9" not found, try pulling it first'),
        (None, "model: claude-9"),
        ("404", "models/gemini-9 is not found for API version v1main, or model not supported"),
        (None, "No endpoints found for x/y."),
    ],
)
def test_a_model_that_is_not_there_is_our_configurations_fault(code, message):
    """The model's name is ours, not the caller's."""
    assert read(404, code=code, message=message).kind is Kind.MODEL_MISSING


def test_another_thing_that_is_not_there_is_the_callers_fault():
    """It names the provider's stored objects itself."""
    assert read(404, message="Previous response with id 'resp_1' not found.").kind is Kind.CALLER


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing."),
        (400, None, "Your credit balance is too low to access the Anthropic API."),
        (402, None, "Insufficient Balance"),
    ],
)
def test_spent_credit_is_like_a_refused_key(status, code, message):
    """Waiting does not help, going elsewhere does."""
    assert read(status, code=code, message=message).kind is Kind.CREDENTIALS


def test_a_request_over_the_tokens_of_a_minute_goes_elsewhere():
    """Groq says 413 with the code of a rate limit; the same request would be refused again."""
    found = read(413, code="rate_limit_exceeded", message="Request too large for model on tokens per minute")

    assert (found.kind, found.retry_same) == (Kind.RATE_LIMITED, False)


@pytest.mark.parametrize(
    ("failure", "blames"),
    [
        *((Failure(kind), True) for kind in (Kind.CONNECT, Kind.RESET, Kind.SILENT, Kind.BROKEN)),
        *((Failure(kind, status=404), True) for kind in (Kind.CREDENTIALS, Kind.MODEL_MISSING)),
        *((Failure(Kind.TRANSIENT, status=status), True) for status in (408, 500, 529)),
        (Failure(Kind.TRANSIENT, status=409), False),
        *(
            (Failure(kind), False)
            for kind in (Kind.RATE_LIMITED, Kind.BUSY, Kind.CONTEXT, Kind.POLICY, Kind.CALLER)
        ),
    ],
)
def test_the_breaker_counts_what_the_upstream_did(failure, blames):
    """Not what the caller, a quota or we ourselves did."""
    assert failure.blames_arm is blames


@pytest.mark.parametrize(
    ("value", "word"), [(b"true", True), (b" False ", False), (b"perhaps", None), (b"", None)]
)
def test_an_upstream_may_say_whether_to_come_again(value, word):
    """OpenAI's and Anthropic's header."""
    assert read(500, headers=[(b"x-should-retry", value)]).retry_same is word


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], None),
        ([(b"retry-after", b"2")], 2.0),
        ([(b"retry-after", b" 2.5 ")], 2.5),
        ([(b"retry-after", b"0")], 0.0),
        ([(b"retry-after-ms", b"1500")], 1.5),
        ([(b"retry-after", b"9"), (b"retry-after-ms", b"1500")], 1.5),
        ([(b"retry-after", b"9"), (b"retry-after-ms", b"x")], 9.0),
        ([(b"retry-after", b"x"), (b"retry-after", b"3")], 3.0),
        ([(b"retry-after", formatdate(NOW + 30, usegmt=True).encode())], 30.0),
        ([(b"retry-after", formatdate(NOW - 30, usegmt=True).encode())], None),
        ([(b"retry-after", b"Mon, 01 Jan 0001 00:00:00 -2359")], None),
        ([(b"retry-after", b"-1")], None),
        ([(b"retry-after", b"nan")], None),
        ([(b"retry-after", b"inf")], None),
        ([(b"retry-after", b"1e3")], None),
        ([(b"retry-after", b"1_000")], None),
        ([(b"retry-after", b"9" * 400)], None),
        ([(b"retry-after", b"99999999999")], LONGEST_RETRY_AFTER_S),
        ([(b"retry-after", b"soon")], None),
        ([(b"retry-after", b"")], None),
        ([(b"retry-after", b"\xd9\xa1")], None),
        ([(b"retry-after", b"Fri, 99 Foo 2026 99:99:99 GMT")], None),
        ([(b"x-other", b"5")], None),
    ],
)
def test_retry_after_in_all_its_forms(headers, seconds):
    """Seconds, milliseconds and dates; nonsense is as if nothing was said."""
    found = retry_after_s(headers, now=NOW)

    assert found == (None if seconds is None else pytest.approx(seconds, abs=1.0 if seconds > 20 else 1e-9))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"retry-after", b"retry-after-ms", b"x-should-retry"]),
            st.one_of(st.binary(max_size=80), st.from_regex(rb"[0-9A-Za-z ,:.+-]{0,40}", fullmatch=True)),
        ),
        max_size=4,
    ),
    st.integers(min_value=100, max_value=599),
    st.text(max_size=200),
)
def test_whatever_an_upstream_says_has_a_kind(headers, status, message):
    """No header and no message breaks the reading, and a wait is always sensible."""
    found = read(status, message=message, headers=headers)

    assert isinstance(found.kind, Kind)
    asked = found.retry_after_s
    assert asked is None or (math.isfinite(asked) and 0.0 <= asked <= LONGEST_RETRY_AFTER_S)
