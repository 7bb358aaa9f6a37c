"""What is kept in memory: bounded whatever comes, gone when it has expired, the least used first."""

from dataclasses import replace
from sys import getsizeof

from hypothesis import given
from hypothesis import strategies as st

from proxy.cache.entry import Entry, decode, encode
from proxy.cache.memory import MemoryStore

SECRET = b"s" * 32


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _entry(size: int, arm: str = "a") -> Entry:
    return Entry(b"x" * size, b"application/json", False, arm, "req", 1)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 9), st.integers(0, 5000), st.floats(0.0, 10.0)),
        st.tuples(st.just("get"), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.floats(0.0, 5.0)),
        st.tuples(st.just("use"), st.integers(0, 12_000)),
        st.tuples(st.just("sweep")),
    ),
    max_size=60,
)


@given(STEPS)
def test_bounds_hold_whatever_comes(steps):
    """Against a dictionary that forgets nothing: what comes back was put, is not old, and all fits."""
    clock = Clock()
    limit = 8000
    store = MemoryStore(limit, clock=clock)
    known: dict[bytes, tuple[float, Entry]] = {}
    for kind, *step in steps:
        if kind == "put":
            number, size, ttl_s = step
            key, entry = b"%d" % number, _entry(size, f"a{len(known)}")
            store.put(key, entry, ttl_s)
            known[key] = (clock.now + ttl_s, entry)
        elif kind == "get":
            key = b"%d" % step[0]
            found = store.get(key)
            if found is not None:
                assert known[key][1] is found
                assert known[key][0] > clock.now
        elif kind == "wait":
            clock.now += step[0]
        elif kind == "use":
            limit = step[0]
            store.use(limit)
        else:
            store.sweep()
        assert store.size <= limit
        assert store.size == sum(entry.size for _, entry in store._entries.values())
    store.use(0)
    assert (store.size, len(store)) == (0, 0)


def test_the_least_used_goes_first():
    store = MemoryStore(3 * _entry(0).size, clock=Clock())
    for key in (b"1", b"2", b"3"):
        store.put(key, _entry(0), 10.0)
    assert store.get(b"1") is not None
    store.put(b"4", _entry(0), 10.0)
    assert [store.get(key) is not None for key in (b"1", b"2", b"3", b"4")] == [True, False, True, True]
    assert store.evicted == 1


def test_what_expired_is_never_given():
    clock = Clock()
    store = MemoryStore(10_000, clock=clock)
    store.put(b"1", _entry(10), 5.0)
    clock.now += 4.999
    assert store.get(b"1") is not None
    clock.now += 0.001
    assert store.get(b"1") is None
    assert store.size == 0


def test_one_that_is_too_large_is_not_kept_and_the_old_one_goes():
    store = MemoryStore(2000, clock=Clock())
    store.put(b"1", _entry(10), 5.0)
    store.put(b"1", _entry(5000), 5.0)
    assert store.get(b"1") is None
    assert store.size == 0


@given(
    body=st.binary(max_size=200),
    arm=st.text(max_size=9),
    stream=st.booleans(),
    kind=st.sampled_from((b"application/json", b"text/event-stream; charset=utf-8")),
    left_out=st.lists(st.text(max_size=5), max_size=3),
)
def test_bytes_and_back(body, arm, stream, kind, left_out):
    entry = Entry(body, kind, stream, arm, "req", 5, tuple(left_out))
    assert decode(encode(entry, b"k", SECRET), b"k", SECRET) == entry


@given(st.data())
def test_what_was_not_sealed_for_this_key_is_nothing(data):
    """Cut, changed, moved to another key, or written by somebody without the secret."""
    entry = Entry(b"{}", b"application/json", False, "a", "req", 5)
    whole = encode(entry, b"k", SECRET)
    assert decode(whole, b"other", SECRET) is None
    assert decode(whole, b"k", b"t" * 32) is None
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255))
    assert decode(bytes(changed), b"k", SECRET) is None
    assert decode(whole[:place], b"k", SECRET) is None


def test_everything_that_an_entry_holds_is_counted():
    """A caller chooses the names of what is left out, an upstream the type of its reply."""
    small = Entry(b"", b"text/plain", False, "a", "r", 0)
    named = replace(small, left_out=tuple(f"member{number}" for number in range(1000)))
    typed = replace(small, content_type=b"t" * 60_000)
    assert named.size - small.size >= sum(map(getsizeof, named.left_out))
    assert typed.size - small.size >= 59_000
