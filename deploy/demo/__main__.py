"""`make cluster-demo`: sets the stage, tells the story. Exit status 0: it held, 1: it did not, 2: can not be played."""

import argparse
import asyncio
import sys

from rich.console import Console

from deploy.demo.composed import Composed
from deploy.demo.local import Local
from deploy.demo.stage import StageFailed
from deploy.demo.story import DidNotHold, Story
from loadtests.servers.process import Missing


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="make cluster-demo", description=__doc__)
    parser.add_argument("--stage", choices=("local", "compose"), default="local")
    parser.add_argument("--nodes", type=int, default=2, help="of the local stage; with 1 there is no cluster")
    parser.add_argument("--workers", type=int, default=1, help="of each node, on the local stage")
    parser.add_argument("--per-second", type=float, default=40.0)
    parser.add_argument("--keep", action="store_true", help="leave the containers running")
    given = parser.parse_args()
    console = Console(highlight=False)
    try:
        stage = (
            Composed(keep=given.keep)
            if given.stage == "compose"
            else Local(count=given.nodes, workers=given.workers)
        )
    except Missing as missing:
        console.print(f"can't set the stage: {missing}")
        return 2
    try:
        console.print(f"starting everything ({given.stage})")
        stage.start()
        asyncio.run(Story(stage, console, per_second=given.per_second).play())
    except StageFailed as failed:
        console.print(f"can't set the stage: {failed}", markup=False)
        return 2
    except (DidNotHold, RuntimeError) as failed:
        console.print(f"[bold red]did not hold:[/bold red] {failed}", soft_wrap=True)
        if isinstance(stage, Local):
            console.print(stage.outputs(), markup=False, soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        stage.close()
    console.print("[bold green]everything held[/bold green]")
    return 0


if __name__ == "__main__":
    sys.exit(main())
