"""Log lines: two styles, and no secret in either."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from proxy import logs


@pytest.fixture(autouse=True)
def _restore_root() -> Iterator[None]:
    """Logging is the one global that a process has; give it back."""
    root = logging.getLogger()
    before = (root.handlers[:], root.level)
    yield
    root.handlers[:], level = before
    root.setLevel(level)


def lines(style: str, **options: object) -> tuple[logging.Logger, io.StringIO, logs.Redactor]:
    stream = io.StringIO()
    redactor = logs.configure("worker-1", level="debug", style=style, stream=stream)
    return logging.getLogger(logs.LOGGER_NAME), stream, redactor


def test_json_lines_carry_role_level_and_extra_fields() -> None:
    """One object per record."""
    logger, stream, _ = lines("json")

    logger.warning("%d left", 3, extra={"route": "chat"})

    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert line["message"] == "3 left"
    assert (line["level"], line["role"], line["route"]) == ("warning", "worker-1", "chat")
    assert line["time"].endswith("Z")


def test_auto_is_json_where_nobody_watches() -> None:
    """A stream that is no terminal gets JSON."""
    logger, stream, _ = lines("auto")

    logger.info("hello")

    assert json.loads(stream.getvalue())["message"] == "hello"


def test_text_lines_are_for_people() -> None:
    """Time, level, role, message, fields."""
    logger, stream, _ = lines("text")

    logger.info("hello", extra={"route": "chat"})

    assert "info    worker-1: hello route=chat" in stream.getvalue()


@pytest.mark.parametrize("style", ["json", "text"])
@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer hunter2-hunter2",
        "authorization=hunter2-hunter2",
        "x-api-key: hunter2-hunter2",
        '{"api_key": "hunter2-hunter2"}',
        "key sk-hunter2-hunter2 was refused",
        "lopt-admin-hunter2-hunter2",
        "a plain hunter2-hunter2 that was learned",
        'a "quoted" hunter2-hunter2 \\ that was learned',
    ],
)
def test_credentials_are_masked(style: str, text: str) -> None:
    """By shape, by name and by value; in messages, fields and tracebacks."""
    logger, stream, redactor = lines(style)
    if "learned" in text:
        redactor.learn(["hunter2-hunter2", '"quoted" hunter2-hunter2 \\'])

    logger.error(text, extra={"detail": text})
    try:
        raise ValueError(text)  # noqa: TRY301 - the traceback is what is looked at
    except ValueError:
        logger.exception("failed: %s", text)

    assert "hunter2" not in stream.getvalue()
    assert "[redacted]" in stream.getvalue()


def test_short_secrets_do_not_shred_words() -> None:
    """Three letters are everywhere; masking them would hide the log, not the secret."""
    redactor = logs.Redactor(["abc", ""])

    assert redactor.clean("abc abcdef") == "abc abcdef"


def test_a_secret_that_contains_another_is_masked_whole() -> None:
    """Longest first, whatever the order of learning."""
    redactor = logs.Redactor(["secret-1"])
    redactor.learn(["secret-1-and-more"])

    assert redactor.clean("x secret-1-and-more y") == "x [redacted] y"


def test_configuring_again_replaces_the_handler() -> None:
    """A record is written once."""
    _, _, redactor = lines("json")
    stream = io.StringIO()

    assert logs.configure("optimizer", style="json", stream=stream, redactor=redactor) is redactor
    logging.getLogger(logs.LOGGER_NAME).info("once")

    assert stream.getvalue().count("once") == 1


def test_a_client_library_repeats_itself_once_in_a_while() -> None:
    """A Kafka client complains several times a second while its brokers are away; others are not held back."""
    stream = io.StringIO()
    logs.configure("optimizer", level="info", style="json", stream=stream)
    chatty, ours = logging.getLogger("aiokafka.client"), logging.getLogger("optimizer.sinks.kafka")

    def say(logger: logging.Logger, number: int, at: float) -> None:
        record = logger.makeRecord(logger.name, logging.ERROR, "", 0, "no connection to %d", (number,), None)
        record.created = at
        logger.handle(record)

    for second in range(300):
        say(chatty, second, 1000.0 + second)
        say(ours, second, 1000.0 + second)
    say(chatty, 7, 1601.0)

    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    told = [line for line in found if line["logger"] == "aiokafka.client"]
    assert [line["message"] for line in told] == ["no connection to 0", "no connection to 7"]
    assert told[1]["left_out"] == 299
    assert len(found) == 302


def test_whoever_looks_for_a_fault_hears_all_of_it() -> None:
    logger, stream, _ = lines("json")
    logger = logging.getLogger("aiokafka")

    for _ in range(3):
        logger.warning("no connection")

    assert len(stream.getvalue().splitlines()) == 3
