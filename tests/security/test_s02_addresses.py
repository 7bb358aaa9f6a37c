"""S2, incomplete deny lists: Bifrost CVE-2026-55245, new-api GO-2026-5652 and GO-2025-4154, and their relatives.

Every address is judged by what it is or wraps, every spelling by what a resolver would make of it, and what is
connected to is what was judged.
"""

import asyncio
import socket
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.routing import Upstream
from proxy.config.load import load_text
from proxy.config.problems import ConfigProblems
from proxy.errors import ConnectFault
from proxy.http1.addresses import Kind, host_problem, is_public_name, kind_of, resolution_problem
from proxy.http1.connect import connect
from proxy.http1.origin import Origin

GLOBAL = ("8.8.8.8", "1.1.1.1", "2606:4700::1111", "64:ff9b::8.8.8.8", "2002:808:808::1", "::ffff:8.8.8.8")
LOCAL = (
    "127.0.0.1", "127.255.255.254", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.0.1",
    "100.64.0.1", "100.127.255.255",  # carrier-grade NAT: not is_private, and missed by Bifrost
    "0.0.0.0", "0.1.2.3",  # this host: missed by new-api
    "192.0.0.1", "192.0.2.1", "198.51.100.1", "203.0.113.1", "198.18.0.1", "192.88.99.1",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "fc00::1", "fd12:3456::1", "fec0::1", "ff02::1", "2001:db8::1", "3fff::1", "100::1", "4000::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:100.64.0.1", "::ffff:0.0.0.0",
    "::127.0.0.1", "::10.0.0.1", "::ffff:0:10.0.0.1",
    "2002:a00:1::", "2002:7f00:1::1", "2002:c0a8:1::",
    "64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b:1::8.8.8.8", "64:ff9b:1::10.0.0.1",
    "2001:0:a00:1::f7f7:f7f7", "2001:0:808:808::f5ff:fffe",  # Teredo: private server, private client
    "2606:4700::5efe:10.0.0.1", "2606:4700::200:5efe:10.0.0.1",  # ISATAP
)  # fmt: skip
NEVER = (
    "169.254.169.254", "169.254.170.2", "169.254.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192",
    "fe80::1", "fe80::1%lo", "febf::1", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
    "::ffff:169.254.169.254", "::169.254.169.254", "::ffff:0:169.254.169.254", "::ffff:100.100.100.200",
    "2002:a9fe:a9fe::", "64:ff9b::169.254.169.254", "64:ff9b:1::169.254.169.254", "64:ff9b:1:a9fe:a9:fe00::",
    "2001:0:a9fe:a9fe::", "2001:0:808:808::5601:5601", "2606:4700::5efe:169.254.169.254",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *((text, Kind.GLOBAL) for text in GLOBAL),
        *((text, Kind.LOCAL) for text in LOCAL),
        *((text, Kind.NEVER) for text in NEVER),
    ],
)
def test_what_an_address_is(text, kind):
    assert kind_of(ip_address(text)) is kind


@given(st.integers(0, 2**32 - 1))
def test_wrapping_never_makes_an_address_more_acceptable(number):
    """Mapped, compatible, translated, 6to4, NAT64, Teredo and ISATAP forms are judged at least as hard."""
    order = [Kind.GLOBAL, Kind.LOCAL, Kind.NEVER]
    inner = order.index(kind_of(IPv4Address(number)))
    for wrapped in (
        0xFFFF << 32 | number,
        number,
        0xFFFF << 48 | number,
        0x2002 << 112 | number << 80,
        0x64FF9B << 96 | number,
        0x64FF9B0001 << 80 | number,
        0x20010000 << 96 | number << 64,
        0x20010000 << 96 | 0x08080808 << 64 | number ^ 0xFFFFFFFF,
        0x26064700 << 96 | 0x5EFE << 32 | number,
    ):
        assert order.index(kind_of(IPv6Address(wrapped))) >= inner or number in (0, 1)


@given(st.ip_addresses(v=6))
def test_only_what_was_given_out_as_unicast_is_public(address):
    if kind_of(address) is Kind.GLOBAL:
        assert address.is_global
        assert str(address.exploded)[0] in "23" or address.ipv4_mapped or address.exploded.startswith("0064")


@pytest.mark.parametrize(
    "name", ["api.openai.com", "a.b", "10.0.0.1.nip.io", "localtest.me", "x.ts.net", "h.com."]
)
def test_public_names(name):
    assert is_public_name(name)
    assert resolution_problem(name, [ip_address("10.0.0.1")], allow_private=False)
    assert resolution_problem(name, [ip_address("8.8.8.8"), ip_address("::1")], allow_private=False)
    assert resolution_problem(name, [ip_address("8.8.8.8")], allow_private=False) is None
    assert resolution_problem(name, [ip_address("10.0.0.1")], allow_private=True) is None


@pytest.mark.parametrize(
    "name",
    ["vllm", "localhost", "LOCALHOST.", "a.localhost", "gpu.local", "llm.internal", "host.docker.internal", "nas.lan",
     "box.home.arpa", "vllm.default.svc", "vllm.default.svc.cluster.local", "x.test", "llm.corp", "a.consul"],
)  # fmt: skip
def test_names_of_the_house(name):
    """What no public name server answers for may be private, but no more than that."""
    assert not is_public_name(name)
    assert resolution_problem(name, [ip_address("10.0.0.1")], allow_private=False) is None
    assert resolution_problem(name, [ip_address("10.0.0.1"), ip_address("fe80::1")], allow_private=True)


ODD = (
    "0x7f.1", "0x7f000001", "2130706433", "127.1", "127.0.1", "017700000001", "0177.0.0.1", "127.0.0.01",
    "127.0.0.1.",
    "127.0.0.0x1", "0", "1.2.3.4.5", "256.256.256.256", "10.0.0.1.", "2852039166", "0xa9fea9fe",
    "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1%25lo]", "[::1%lo]", "127.0.0.1%00", "127%2e0%2e0%2e1",
    "%31%32%37.0.0.1", "%6c%6fcalhost", "localhost%00.example.com", "a..b", ".a", "a-.b", "-a", "a" * 254,
    "good.example\\.evil.example", "h,evil", "h;evil", "h|evil", "h{evil}", "h`id`", "h$x", "h'x", "h(x)",
    "h*x", "h!x",
    "\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021", "\u24dbocalhost", "loc\u200balhost", "b\xfccher",
)  # fmt: skip
REFUSED = (
    "169.254.169.254", "[fe80::1]", "[fe80::1%25eth0]", "[fd00:ec2::254]", "100.100.100.200",
    "[::ffff:169.254.169.254]",
    "[2002:a9fe:a9fe::]", "[64:ff9b::a9fe:a9fe]", "metadata", "METADATA.google.internal", "metadata.google.internal.",
    "instance-data", "metadata.goog", "168.63.129.16",
)  # fmt: skip
USERINFO = (
    "u:p@h", "api.openai.com@evil.example", "api.openai.com:443@evil.example", "@h", ":@h",
    "good.example\\@evil.example", "good.example%40@evil.example", "h#@evil.example",
)  # fmt: skip


def problems(url: str, key: str = "base_url") -> list[str]:
    fields = f"{key}: {url!r}" if key == "base_url" else f"base_url: 'http://h.example/v1', {key}: {url!r}"
    try:
        load_text(f"upstreams: {{x: {{{fields}}}}}\nmodels: {{m: {{upstream: x}}}}", {})
    except ConfigProblems as refused:
        return [problem.path for problem in refused.problems]
    return []


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", [*ODD, *REFUSED, *USERINFO])
def test_odd_hosts_are_refused_by_the_configuration(host, scheme):
    assert "upstreams.x.base_url" in problems(f"{scheme}://{host}/v1")


@pytest.mark.parametrize("host", [*ODD, *REFUSED])
def test_odd_proxies_are_refused_by_the_configuration(host):
    assert "upstreams.x.proxy" in problems(f"http://{host}:3128", "proxy")


@pytest.mark.parametrize(
    "url",
    ["ftp://h/v1", "file:///etc/passwd", "gopher://h/", "http:/h", "http:///v1", "//h/v1", "http://h:99999/",
     "http://h:-1/",
     "http://h:80:80/", "http://h:x/", "http://h /", "http://h\t/", "http://h\r\nx/", "javascript:alert(1)"],
)  # fmt: skip
def test_other_schemes_and_shapes_are_refused(url):
    assert "upstreams.x.base_url" in problems(url)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8000", "localhost:8000", "[::1]:8000", "10.1.2.3", "0.0.0.0:8000", "[fd12::1]", "vllm", "vllm_1",
     "api.openai.com", "vllm.default.svc.cluster.local.", "xn--bcher-kva.example"],
)  # fmt: skip
def test_what_operators_write_is_accepted(host):
    """A literal local address is its own opt-in."""
    assert problems(f"http://{host}/v1") == []


async def _system(host):
    """What the C library's resolver makes of a host, None if nothing."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, 80, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    return [ip_address(address[0]) for *_, address in found]


@pytest.mark.parametrize(
    "host", [host for host in ODD if host[0] != "[" and host.isascii() and len(host) < 200]
)
async def test_spellings_that_a_resolver_understands_are_not_names_to_us(host):
    """Whatever getaddrinfo reads as an address without asking anybody is refused before it is asked."""
    try:
        socket.inet_aton(host)
    except (OSError, ValueError):
        pass
    else:
        assert await _system(host)
    assert host_problem(host)


class Landing(asyncio.Protocol):
    def __init__(self):
        self.transport = None

    def connection_made(self, transport):
        self.transport = transport


@pytest.fixture
async def listening():
    """A port of 127.0.0.1, and who connected to it."""
    arrived = []

    class Accepting(asyncio.Protocol):
        def connection_made(self, transport):
            arrived.append(transport)

    server = await asyncio.get_running_loop().create_server(Accepting, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1], arrived
    for transport in arrived:
        transport.abort()
    server.close()


def origin(url, **changes):
    upstream = Upstream(name="up", provider="openai", base_url=url, auth="none")
    return Origin.from_upstream(replace(upstream, **changes))


class Resolver:
    """Answers with what it was given, another answer each time; keeps the questions."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    async def __call__(self, host, port):
        self.asked.append(host)
        return self.answers.pop(0)


async def land(place, resolver):
    landing = Landing()
    await connect(asyncio.get_running_loop(), place, lambda: landing, resolve=resolver)
    peer = landing.transport.get_extra_info("peername")[0]
    landing.transport.abort()
    return peer


@pytest.mark.parametrize("address", [*LOCAL, *NEVER])
async def test_a_public_name_never_leads_inside(address, listening, caplog):
    """The refusal is a fault of the connection; nobody was connected to; the caller learns no address."""
    port, arrived = listening
    place = origin(f"http://api.provider.com:{port}")
    for _ in range(3):
        with pytest.raises(ConnectFault) as caught:
            await land(place, Resolver(["8.8.8.8", address]))
        assert address not in str(caught.value)
    assert arrived == []
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "api.provider.com" in caplog.text


async def test_the_operator_may_permit_private_addresses(listening):
    port, _ = listening
    place = origin(f"http://api.provider.com:{port}", allow_private=True)
    assert await land(place, Resolver(["127.0.0.1"])) == "127.0.0.1"
    with pytest.raises(ConnectFault, match="always refused"):
        await land(place, Resolver(["127.0.0.1", "169.254.169.254"]))


async def test_a_name_of_the_house_needs_no_permission(listening):
    port, _ = listening
    assert await land(origin(f"http://vllm:{port}"), Resolver(["127.0.0.1"])) == "127.0.0.1"
    with pytest.raises(ConnectFault):
        await land(origin(f"http://vllm:{port}"), Resolver(["fe80::1"]))


async def test_a_name_is_resolved_once(listening):
    """Rebinding: a second answer would lead elsewhere, but there is no second question."""
    port, arrived = listening
    resolver = Resolver(["127.0.0.1"], ["169.254.169.254"])
    assert await land(origin(f"http://vllm:{port}"), resolver) == "127.0.0.1"
    assert resolver.asked == ["vllm"]
    assert len(arrived) == 1


async def test_dead_addresses_are_passed_over(listening):
    """Refused ones at once; and the one that answers wins although it comes last."""
    port, arrived = listening
    dead = [f"127.0.0.{number}" for number in range(2, 6)]
    assert await land(origin(f"http://vllm:{port}"), Resolver(["::1", *dead, "127.0.0.1"])) == "127.0.0.1"
    assert len(arrived) == 1


async def test_a_silent_address_costs_a_quarter_second(listening):
    """A full accept queue answers nothing at all; the next address is tried beside it."""
    port, _ = listening
    with socket.socket() as silent:
        silent.bind(("127.0.0.9", port))
        silent.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.9", port))
            fillers.append(filler)
        loop = asyncio.get_running_loop()
        began = loop.time()
        peer = await land(origin(f"http://vllm:{port}"), Resolver(["127.0.0.9", "127.0.0.1"]))
        took = loop.time() - began
        for filler in fillers:
            filler.close()
    assert peer == "127.0.0.1"
    assert took < 2


async def test_all_addresses_dead_is_one_fault_without_an_address(unused_tcp_port):
    for answers in (["127.0.0.1"], ["127.0.0.2", "127.0.0.1", "::1"], []):
        with pytest.raises(ConnectFault) as caught:
            await land(origin(f"http://vllm:{unused_tcp_port}"), Resolver(answers))
        assert "127.0.0" not in str(caught.value)
        assert "::1" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_proxy_is_judged_like_an_origin(scheme, listening):
    """Its name is the operator's, its addresses are not; the target is the proxy's to resolve."""
    port, arrived = listening
    place = origin(f"{scheme}://api.provider.com/v1", proxy=f"http://proxy.provider.com:{port}")
    resolver = Resolver(["10.0.0.1"])
    with pytest.raises(ConnectFault, match="allow_private"):
        await land(place, resolver)
    assert resolver.asked == ["proxy.provider.com"]
    for host in ("169.254.169.254", "metadata.google.internal", "2852039166"):
        place = origin(f"{scheme}://{host}/v1", proxy=f"http://127.0.0.1:{port}")
        with pytest.raises(ConnectFault, match="not accepted"):
            await land(place, Resolver())
    assert arrived == []


async def test_an_attempt_that_is_given_up_leaves_nothing_open(listening):
    """The pool cancels at connect_s."""
    port, arrived = listening
    asked = asyncio.Event()

    async def never(host, port):
        asked.set()
        await asyncio.Event().wait()

    task = asyncio.ensure_future(land(origin(f"http://vllm:{port}"), never))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert arrived == []


def test_tls_and_host_keep_the_name():
    place = origin("https://vllm.internal.:8443/v1")
    assert (place.server_hostname, place.authority) == ("vllm.internal", "vllm.internal.:8443")
    assert urlsplit("https://vllm.internal.:8443/v1").hostname == place.host
