"""Documents that callers and operators write: requests, feedback, configurations, ids, hosts."""

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import orjson

from loadtests.fuzzing.streams import translate
from loadtests.fuzzing.target import Target, demand
from optimizer.feedback import FeedbackProblem, parse_feedback, to_event
from optimizer.ids import RequestIds, verify
from proxy.config.load import load_text
from proxy.config.problems import ConfigProblems
from proxy.envelope import DELETE, parse, rewrite
from proxy.errors import ClientFault
from proxy.http1.addresses import host_problem, is_public_name, literal

ROOT = Path(__file__).resolve().parents[2]
_KEY = bytes(32)
_ENDPOINTS = ("chat", "completions", "embeddings", "responses", "messages")
_CHANGES: tuple[Mapping[str, Any], ...] = (
    {"model": "other"},
    {"model": "a\"b\\c", "stream_options": {"include_usage": True}, "user": DELETE},
    {"model": DELETE, "temperature": None, "messages": []},
    {"messages": DELETE, "prompt": DELETE, "input": DELETE, "stream": DELETE, "new": [1, {"a": "}"}]},
)  # fmt: skip


def _same(first: Any, second: Any) -> bool:
    """Equality that tells 1 from True and from 1.0."""
    return orjson.dumps(first, option=orjson.OPT_SORT_KEYS) == orjson.dumps(
        second, option=orjson.OPT_SORT_KEYS
    )


def _request(data: bytes) -> Hashable:
    outcomes: list[Hashable] = []
    for endpoint in _ENDPOINTS:
        try:
            envelope = parse(endpoint, data)
        except ClientFault as fault:
            outcomes.append(fault.code)
            continue
        document = orjson.loads(data)
        demand(_same(dict(envelope.doc), document), "the envelope holds another document")
        demand(envelope.model == document["model"], "the envelope names another model")
        for changes in _CHANGES:
            expected = {k: v for k, v in document.items() if changes.get(k) is not DELETE}
            expected |= {k: v for k, v in changes.items() if v is not DELETE}
            knowledge = (None, envelope.known_member) if envelope.known_member else (None,)
            for known in knowledge:
                rewritten = rewrite(data, envelope.doc, changes, known=known)
                demand(
                    _same(orjson.loads(rewritten), expected), f"rewriting {changes} gave {rewritten[:300]!r}"
                )
        outcomes.append(
            (envelope.stateful, envelope.stream, tuple(sorted(envelope.needs)), translate(envelope))
        )
    return tuple(outcomes)


def _request_guarded(data: bytes) -> Hashable:
    try:
        return _request(data)
    except orjson.JSONEncodeError:
        return "too deep to be written again"  # by the comparison here; the product says the same


def _feedback(data: bytes) -> Hashable:
    try:
        items = parse_feedback(orjson.loads(data))
    except orjson.JSONDecodeError:
        return "no JSON"
    except FeedbackProblem as problem:
        orjson.dumps(str(problem))
        return problem.path.rpartition(".")[2][:30]
    for item in items:
        orjson.dumps(to_event(item, request_id="req_x"))
    return len(items)


def _config(data: bytes) -> Hashable:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return "no text"
    try:
        loaded = load_text(text, {"KEY": "value", "EMPTY": ""})
    except ConfigProblems as refused:
        str(refused)
        return len(refused.problems), refused.problems[0].message[:20]
    return len(loaded.settings.routes), len(loaded.notes)


def _names(data: bytes) -> Hashable:
    text = data.decode("latin-1")
    found = verify(text, _KEY)
    problem = host_problem(text)
    demand(problem is None or literal(text) is None or "." in problem, "a literal without a reason")
    return found is not None, problem, is_public_name(text)


def _seeds() -> tuple[bytes, ...]:
    chat = {
        "model": "gpt-4", "stream": True, "user": "u", "temperature": 0.5, "max_tokens": 10, "n": 1,
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {
                "url": "data:image/png;base64,aGk="}}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "t", "type": "function", "function": {
                "name": "f", "arguments": "{\"a\": 1}"}}]},
            {"role": "tool", "tool_call_id": "t", "content": "r"},
        ],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "tool_choice": "auto", "response_format": {"type": "json_object"}, "stop": ["x"], "metadata": {"model": "m"},
    }  # fmt: skip
    large = {
        "messages": [{"role": "user", "content": "x" * 9000, "model": "y"}],
        "model": "gpt-4",
        "user": "z",
    }
    return (
        orjson.dumps(chat),
        orjson.dumps(chat, option=orjson.OPT_INDENT_2),
        orjson.dumps(large),
        b'{"model":"a","model":"b","messages":[{"role":"user","content":"x"}]}',
        b'{"mod\\u0065l":"a","messages":[{"role":"user","content":"\\"model\\":\\"x\\""}] , "user" : null }',
        b'{"model":"a","prompt":["a","b"],"suffix":"c","stream":false}',
        b'{"model":"a","input":[[1,2],[3]],"encoding_format":"base64"}',
        b'{"model":"a","input":[{"role":"user","content":[{"type":"input_text","text":"x"}]}],"store":false}',
        b'{"model":"a","input":"x","previous_response_id":"r","tools":[{"type":"web_search"}]}',
    )


def _configs() -> tuple[bytes, ...]:
    bomb = b"a: &a [x, x, x, x, x, x, x, x, x]\n" + b"".join(
        b"%c: &%c [%b]\n" % (98 + level, 98 + level, b", ".join([b"*%c" % (97 + level)] * 9))
        for level in range(9)
    )
    return (
        (ROOT / "config.yaml").read_bytes()[:8000],
        b"optimization:\n  strategies: [model_selection]\nmodel_selection: {models: [gpt-4, claude-3-opus]}\n",
        (
            b"upstreams:\n  x: {base_url: 'http://h/v1', api_key: '${KEY}', headers: {x-a: b}, paths: {chat: /c}}\n"
            b"models:\n  m: {upstream: x, price: {input: 1, output: 2}}\n"
            b"routes:\n  r: {arms: [m, {model: m, prompt: p}], match: ['gpt-*'], fallbacks: [m], objectives: [cost]}\n"
            b"prompts: {p: {system: s, mode: append}, q: 'Be brief.'}\npassthrough: {default: x}\n"
        ),
        bomb,
        b"a: &a {<<: *a}\n",
        b"a: &a [*a]\n",
        b"? [a, b]\n: c\n--- !x\n%YAML 1.1\n",
        b"server: {port: 0o777, timeout_ms: 1_000, workers: 1:30}\n",
    )


def targets() -> list[Target]:
    """Requests with rewriting and translation, feedback, configurations, and names."""
    request_id = RequestIds(node=1, incarnation=1, key=_KEY).mint(1).encode()
    return [
        Target(
            "request", _request_guarded, _seeds(),
            (b'"model":', b'"model"', b'"user":', b'"messages":[', b'"stream":true', b"\\u006d", b'"\\""',
            b'","', b'":"', b"}",
             b'{"model":"x"}', b"\\", b"\xff", b'"content":', b'"role":"tool"', b'"tools":', b'"input":',
             b'"prompt":'),
            ("envelope.py", "splice.py", "prompt.py", "providers/"),
        ),
        Target(
            "feedback", _feedback,
            (b'{"request_id":"x","score":1,"comment":"c"}',
            b'{"feedback":[{"id":"x","value":0.5,"metric":"m","source":"s"}]}',
             b'[{"response_id":"r","thumbs":"up"},{"request_id":"x","score":3,"scale":[1,5]}]'),
            (b'"score":', b'"scale":', b'"value":', b'"thumbs":', b'"comment":"', b'"metric":', b'"id":',
            b'"feedback":'),
            ("feedback.py",),
        ),
        Target(
            "config", _config, _configs(),
            (b"&a ", b"*a", b"<<: ", b"!!python/object:x ", b"!!int ", b"${KEY}", b"${X:-y}", b"$${", b"\t",
            b"- ", b": ", b"|\n",
             b"routes:\n", b"models:\n", b"upstreams:\n", b"arms: [", b"!!set ", b"2020-01-01", b"~", b"0x1f",
             b".nan"),
            ("config/",),
        ),
        Target(
            "names", _names,
            (request_id, b"api.openai.com", b"127.0.0.1", b"::ffff:127.0.0.1", b"0x7f.1", b"fe80::1%lo",
            b"localhost."),
            (b"req_", b"127", b".", b"::", b"%", b"0x", b"ffff:", b"local", b"\xc2\xb2", b"\xff"),
            ("ids.py", "addresses.py"),
        ),
    ]  # fmt: skip
