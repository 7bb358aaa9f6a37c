"""The judge's ledger: money is on disk before it is spent."""

from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.control.judge_ledger import AHEAD, Ledger

NOW = 20_000 * 86400.0 + 86399.0


def ledger(path: Path) -> Ledger:
    return Ledger(path / "judge.json", now=lambda: NOW)


async def test_a_kill_never_lets_money_be_spent_twice(tmp_path: Path) -> None:
    """Whoever dies after any number of calls: what comes after it gets the rest at most, less a little."""
    spent = 0.0
    for _ in range(20):
        life = ledger(tmp_path)
        while await life.reserve("judge", 0.03, limit_usd=1.0):
            life.settle("judge", 0.03, 0.02)
            spent += 0.02
            if spent % 0.1 < 0.03:
                break  # killed: nothing is saved
    assert 0.5 < spent <= 1.0


async def test_not_every_call_writes(tmp_path: Path) -> None:
    """The file is ahead by a share of the limit, and exact after an orderly end."""
    life = ledger(tmp_path)
    writes = set()
    for _ in range(100):
        assert await life.reserve("judge", 0.001, limit_usd=1.0)
        life.settle("judge", 0.001, 0.001)
        writes.add((tmp_path / "judge.json").read_bytes())
    assert len(writes) <= 0.1 / AHEAD + 2
    await life.save(exactly=True)

    assert ledger(tmp_path).spent_usd("judge") == pytest.approx(0.1)


async def test_a_disk_that_refuses_spends_nothing(tmp_path: Path) -> None:
    """What can not be remembered is not bought."""
    life = Ledger(tmp_path / "missing" / "judge.json", now=lambda: NOW)

    assert not await life.reserve("judge", 0.01, limit_usd=1.0)
    assert life.spent_usd("judge") == 0.0


async def test_done_is_remembered_until_the_segment_is_gone(tmp_path: Path) -> None:
    """It bounds what the file grows to."""
    life = ledger(tmp_path)
    life.finish("req_1")
    life.finish("req_2")
    await life.save_if_changed()
    again = ledger(tmp_path)
    assert again.is_done("req_1")
    assert again.is_done("req_2")
    again.forget(["req_1", "req_2"])
    await again.save_if_changed()

    assert orjson.loads((tmp_path / "judge.json").read_bytes())["done"] == []


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b'{"spent": 1, "done": []}', b'{"spent": {"j": 1}, "done": []}']
)
async def test_a_damaged_file_is_begun_anew(tmp_path: Path, data: bytes, caplog: Any) -> None:
    """Judging goes on, and somebody is told."""
    (tmp_path / "judge.json").write_bytes(data)

    assert await ledger(tmp_path).reserve("judge", 0.01, limit_usd=1.0)
    assert "judge.json" in caplog.text
