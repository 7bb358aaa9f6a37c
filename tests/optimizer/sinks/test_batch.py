"""Our own packing is what aiokafka's reader understands, and what a broker checks."""

from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from optimizer.cluster.outgoing import Outgoing
from optimizer.sinks.batch import PackedBatch

RECORDS = st.lists(
    st.builds(
        Outgoing,
        st.binary(max_size=20),
        st.just(0),
        st.binary(min_size=1, max_size=300),
        st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=8)), max_size=3),
    ),
    min_size=1,
    max_size=30,
)


@pytest.mark.parametrize("compression", ["gzip", None])
@given(RECORDS, st.integers(0, 2**40), st.integers(0, 2**15 - 1), st.integers(0, 2**31 - 1))
def test_it_reads_back(
    compression: str | None, records: list[Outgoing], producer: int, epoch: int, sequence: int
) -> None:
    packed = PackedBatch(records, compression=compression)
    assert (packed.record_count(), packed.closed(), packed.append()) == (len(records), True, None)
    packed._set_producer_state(producer, epoch, sequence)
    built = packed._build()
    assert len(built) == packed.size()

    batch: Any = MemoryRecords(built).next_batch()
    assert batch.validate_crc()
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (producer, epoch, sequence)
    assert batch.is_transactional is False
    read = list(batch)
    assert [record.offset for record in read] == list(range(len(records)))
    assert [(record.key, record.value) for record in read] == [(r.key, r.value) for r in records]
    assert [list(record.headers) for record in read] == [list(r.headers) for r in records]


def test_compressed_is_smaller() -> None:
    records = [Outgoing(b"auto", 0, b'{"route":"auto","n":1}' * 20, []) for _ in range(50)]
    sizes = [PackedBatch(records, compression=word).size() for word in ("gzip", None)]
    assert sizes[0] * 5 < sizes[1]
