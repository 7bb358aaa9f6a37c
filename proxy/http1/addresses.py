"""Which addresses an outgoing connection may go to: a pure judgement over hosts and resolved addresses.

Invariant: it is made by allow-list. What is not known to be ordinary, global unicast counts as local, whatever way an
IPv4 address is wrapped into an IPv6 one; and what gives out credentials of the machine (link-local, metadata services)
is never reached. Nothing here resolves, connects or knows what the connection is for, so that other clients than the
data plane's can use it.
"""

import enum
import re
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address

_METADATA_NAMES = frozenset(
    (
        "metadata",
        "instance-data",
        "metadata.goog",
        "metadata.google.internal",
        "instance-data.ec2.internal",
        "metadata.azure.internal",
        "metadata.tencentyun.com",
        "metadata.packet.net",
        "metadata.platformequinix.com",
    )
)
_METADATA = frozenset(
    ip_address(text)
    for text in (
        "100.100.100.200",  # Alibaba
        "168.63.129.16",  # Azure's wire server, a public address by its number
        "192.0.0.192",  # Oracle
        "fd00:ec2::254",  # AWS: instances
        "fd00:ec2::23",  # AWS: pods
        "fd20:ce::254",  # Google
    )
)
# Endings of names that no public name server answers for; RFC 6761, RFC 6762 appendix G, RFC 8375 and common use.
_LOCAL_ENDINGS = frozenset(
    (
        "alt",
        "arpa",
        "consul",
        "corp",
        "example",
        "home",
        "internal",
        "intranet",
        "invalid",
        "lan",
        "local",
        "localdomain",
        "localhost",
        "private",
        "svc",
        "test",
    )
)
_NAME = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*", re.IGNORECASE)
_LONGEST_NAME = 253
# The resolver of the C library reads such a last part as a number, in all of inet_aton's spellings.
_NUMERIC = re.compile(r"([0-9]+|0x[0-9a-f]*)", re.IGNORECASE)

_RELAYS = IPv4Network("192.88.99.0/24")  # 6to4 relays: wherever the next one is
_UNICAST = IPv6Network("2000::/3")  # all that IANA has ever given out as global unicast
_DOCUMENTATION = IPv6Network("3fff::/20")
_COMPATIBLE = IPv6Network("::/96")
_TRANSLATED = IPv6Network("::ffff:0:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_ISATAP = frozenset((0x00005EFE, 0x02005EFE))


class Kind(enum.Enum):
    """``GLOBAL`` is the public internet, ``LOCAL`` everything else, ``NEVER`` what is refused always."""

    GLOBAL = "global"
    LOCAL = "local"
    NEVER = "never"


def kind_of(address: Address) -> Kind:
    """What an address is, with every IPv4 address that is wrapped into it."""
    if isinstance(address, IPv4Address):
        return _kind_of_v4(address)
    if address in _METADATA or address.is_link_local:
        return Kind.NEVER
    if address.ipv4_mapped is not None:
        return _kind_of_v4(address.ipv4_mapped)
    wrapped = {_kind_of_v4(inner) for inner in _wrapped(address)}
    if Kind.NEVER in wrapped:
        return Kind.NEVER
    is_ordinary = (
        address in _UNICAST and address not in _DOCUMENTATION and address.is_global
    ) or address in _NAT64
    return Kind.GLOBAL if is_ordinary and Kind.LOCAL not in wrapped else Kind.LOCAL


def literal(host: str) -> Address | None:
    """The address that ``host`` is, written plainly; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def host_problem(host: str) -> str | None:
    """Why ``host`` is not accepted as the place of a service, as the end of a sentence; None if it is.

    Literal local addresses are accepted: who writes one means it.
    """
    address = literal(host)
    if address is not None:
        if kind_of(address) is Kind.NEVER:
            return "link-local and metadata addresses are refused."
        if isinstance(address, IPv6Address) and (address.ipv4_mapped is not None or address.scope_id):
            return "write the address plainly, as in 127.0.0.1 or [::1]."
        return None
    name = host.removesuffix(".")
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        return "holds a host that is neither a name (punycode for letters beyond ASCII) nor an address."
    if _NUMERIC.fullmatch(name.rpartition(".")[2]):
        return "write the address plainly, as in 127.0.0.1 or [::1]."
    if name.lower() in _METADATA_NAMES:
        return "link-local and metadata addresses are refused."
    return None


def is_public_name(name: str) -> bool:
    """Whether the public name system answers for ``name``: not for single words and special-use endings."""
    parent, _, ending = name.lower().rstrip(".").rpartition(".")
    return bool(parent) and ending not in _LOCAL_ENDINGS


def resolution_problem(host: str, addresses: Iterable[Address], *, allow_private: bool) -> str | None:
    """Why the addresses that ``host`` resolved to must not be connected to, as the end of a sentence; None if they may.

    One bad address spoils all: who can add one to an answer decides which one is used.
    """
    kinds = {kind_of(address) for address in addresses}
    if Kind.NEVER in kinds:
        return "its address is link-local or a metadata service's, which is always refused"
    if Kind.LOCAL in kinds and not allow_private and literal(host) is None and is_public_name(host):
        return (
            "its name is public and resolves to an address that is not (allow_private permits what is meant)"
        )
    return None


def _kind_of_v4(address: IPv4Address) -> Kind:
    if address in _METADATA or address.is_link_local:
        return Kind.NEVER
    is_ordinary = (
        address.is_global and not address.is_multicast and not address.is_reserved and address not in _RELAYS
    )
    return Kind.GLOBAL if is_ordinary else Kind.LOCAL


def _wrapped(address: IPv6Address) -> Iterator[IPv4Address]:
    """IPv4 addresses that a router or a tunnel on the way would take out of an IPv6 one."""
    number = int(address)
    last = IPv4Address(number & 0xFFFFFFFF)
    if address in _COMPATIBLE or address in _TRANSLATED or address in _NAT64 or address in _LOCAL_NAT64:
        yield last
    if address in _LOCAL_NAT64:  # RFC 6052: after a prefix of 48 bits the address goes around bits 64 to 71
        yield IPv4Address((number >> 64 & 0xFFFF) << 16 | (number >> 40 & 0xFFFF))
    if (number >> 32) & 0xFFFFFFFF in _ISATAP:
        yield last
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo
