"""Writes ``monitoring/grafana/*.json``."""

import json
from pathlib import Path
from typing import Final

from monitoring.boards import cost, history, performance, pipeline, quality, rollouts
from monitoring.boards.model import Board

BOARDS: Final[tuple[Board, ...]] = (
    cost.BOARD,
    performance.BOARD,
    quality.BOARD,
    history.BOARD,
    rollouts.BOARD,
    pipeline.BOARD,
)
DIRECTORY: Final = Path(__file__).resolve().parents[1] / "grafana"


def files() -> dict[str, str]:
    """The text of every file, by its name."""
    return {
        f"{board.title.lower().replace(' ', '-')}.json": json.dumps(
            board.json(), indent=1, ensure_ascii=False
        )
        + "\n"
        for board in BOARDS
    }


if __name__ == "__main__":
    for name, text in files().items():
        (DIRECTORY / name).write_text(text)
