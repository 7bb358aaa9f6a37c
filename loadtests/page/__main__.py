"""``python -m loadtests.page screenshots`` and ``python -m loadtests.page figures``.

Screenshots: of a product that has been running for a while, with a rollout that passed, one that failed and one under
way. Those of the README go to ``docs/screenshots``; with ``--folder`` every view at 375 and 1440 px, light and dark.
Figures: what the page weighs, when it shows something, and what a tab takes after some minutes; kept in
``loadtests/results/page.json``.
"""

import argparse
import gzip
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from loadtests.figures import RESULTS, ROOT
from loadtests.machine import machine
from loadtests.page.browser import VIEWS, WIDTHS, NoBrowser, Noted, chromium
from loadtests.page.world import World, world
from proxy.control.page.files import BUNDLE, INDEX, read

SHOTS = ROOT / "docs" / "screenshots"
KEPT = RESULTS / "page.json"
README = frozenset(
    ("overview-1440-light", "overview-1440-dark", "overview-375-dark", "rollout-failed-1440-light")
)
LOADS = 5
SETTLE_MS = 2_500

# When the page shows its first figures, not only its frame: the browser's own time since the navigation began.
_USEFUL = """() => new Promise((done) => {
  const there = () => document.querySelector('main table, main dl') !== null;
  const look = () => there() ? done(performance.now()) : requestAnimationFrame(look);
  look();
})"""


def history(made: World, *, seconds: float) -> dict[str, str]:
    """Let time pass, with a rollout that fails, one that passes and one that goes on; their ids."""
    made.begin(callers=4, pause_s=0.08)
    time.sleep(seconds / 3)
    quick = [{"percentage": 30, "duration_sec": 3, "min_samples": 30}, {"percentage": 100}]
    failing = made.rollout(
        stages=[{"percentage": 30, "duration_sec": 900}, {"percentage": 100}], name="Cheaper support"
    )
    time.sleep(seconds / 6)
    made.upstream.failing.add("small")
    made.until(lambda: status(made, failing) == "rolled_back", seconds=120)
    made.upstream.failing.clear()
    time.sleep(seconds / 6)
    passing = made.rollout(stages=quick, route="support", to="medium-next", name="The next medium model")
    # It stops before all of the traffic: that is for a person to decide.
    made.until(lambda: status(made, passing) != "running", seconds=120)
    if status(made, passing) == "paused":
        made.api("POST", f"/api/v1/optimize/{passing}/promote", {"full": True, "reason": "looks good"})
    slow = [
        {"percentage": 10, "duration_sec": 20, "min_samples": 20},
        {"percentage": 50, "duration_sec": 900},
        {"percentage": 100},
    ]
    running = made.rollout(stages=slow, route="extraction", to="small", name="Small model for extraction")
    time.sleep(2)
    return {"failed": failing, "passed": passing, "running": running}


def status(made: World, optimization: str) -> str:
    """The status of an optimization."""
    return str(made.api("GET", f"/api/v1/optimize/{optimization}")["status"])


def screenshots(folder: Path, *, seconds: float, only: frozenset[str] | None = None) -> int:
    """Write one picture per view, width and theme, or ``only`` some; the number of complaints."""
    folder.mkdir(parents=True, exist_ok=True)
    complaints = 0
    with (
        chromium() as browser,
        tempfile.TemporaryDirectory(prefix="page-") as directory,
        world(Path(directory)) as made,
    ):
        ids = history(made, seconds=seconds)
        rows = made.api("GET", "/api/v1/requests?limit=1")["requests"]
        views = [
            *VIEWS,
            f"rollouts/{ids['failed']}",
            f"rollouts/{ids['running']}",
            f"requests/{rows[0]['id']}",
        ]
        names = {
            views[-3]: "rollout-failed",
            views[-2]: "rollout-running",
            views[-1]: "request",
            "": "overview",
        }
        for width, height in WIDTHS.items():
            for theme in ("light", "dark"):
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme)
                page, noted = context.new_page(), Noted()
                noted.watch(page, made.url)
                for view in views:
                    name = f"{names.get(view, view.replace('/', '-'))}-{width}-{theme}"
                    if only is not None and name not in only:
                        continue
                    page.goto(f"{made.page}#/{view}")
                    page.wait_for_timeout(SETTLE_MS)
                    page.screenshot(path=folder / f"{name}.png", full_page=True)
                    if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                        complaints += 1
                        print(f"{name} is wider than its window")
                if not noted.nothing():
                    complaints += 1
                    print(f"{width} px, {theme}: {noted}")
                context.close()
    print(f"pictures in {folder}")
    return complaints


def figures(*, minutes: float) -> int:
    """Measure and keep; 0."""
    bundle = read(BUNDLE)
    assert bundle is not None
    kept: dict[str, Any] = {"machine": machine(), "measured_at": time.strftime("%Y-%m-%d", time.gmtime())}
    kept["weight"] = {
        "files": len(bundle.files),
        "raw_bytes": sum(len(file.body) for file in bundle.files.values()),
        "gzip_bytes": sum(len(file.zipped or file.body) for file in bundle.files.values()),
        "script_gzip_bytes": sum(
            len(gzip.compress(file.body, 9)) for name, file in bundle.files.items() if name.endswith(".js")
        ),
    }
    with (
        chromium() as browser,
        tempfile.TemporaryDirectory(prefix="page-") as directory,
        world(Path(directory)) as made,
    ):
        made.begin(callers=2, pause_s=0.2)
        made.until(lambda: made.statuses[200] > 50)
        kept["first"] = _first(browser, made)
        kept["tab"] = _tab(browser, made, minutes)
    KEPT.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n", "utf-8")
    print(json.dumps(kept, indent=1, sort_keys=True))
    return 0


def _first(browser: Any, made: World) -> dict[str, float]:
    """Medians over loads with an empty cache: first paint, and the first figures of the overview; ms."""
    paints, useful = [], []
    for _ in range(LOADS):
        context = browser.new_context()
        page = context.new_page()
        page.goto(made.page)
        useful.append(page.evaluate(_USEFUL))
        paints.append(
            page.evaluate("performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0")
        )
        context.close()
    middle = LOADS // 2
    return {
        "loads": LOADS,
        "contentful_paint_ms": round(sorted(paints)[middle]),
        "figures_ms": round(sorted(useful)[middle]),
    }


def _tab(browser: Any, made: World, minutes: float) -> dict[str, float]:
    """The heap of one tab that goes round all views, after collecting garbage, at the start and at the end."""
    page = browser.new_page()
    page.goto(made.page)
    page.wait_for_timeout(3_000)
    probe = page.context.new_cdp_session(page)
    begun, first = time.monotonic(), _heap(probe)
    turns = 0
    while time.monotonic() < begun + 60 * minutes:
        page.evaluate("view => { location.hash = '#/' + view }", VIEWS[turns % len(VIEWS)])
        page.wait_for_timeout(5_000)
        turns += 1
    page.evaluate("location.hash = '#/'")
    page.wait_for_timeout(3_000)
    last = _heap(probe)
    page.close()
    return {
        "minutes": minutes,
        "views_opened": turns,
        "heap_start_bytes": first[0],
        "heap_end_bytes": last[0],
        "nodes_start": first[1],
        "nodes_end": last[1],
    }


def _heap(probe: Any) -> tuple[int, int]:
    probe.send("HeapProfiler.collectGarbage")
    counters = probe.send("Memory.getDOMCounters")
    return int(probe.send("Runtime.getHeapUsage")["usedSize"]), int(counters["nodes"])


def main() -> int:
    """Run one of the two."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.page", description=__doc__)
    parser.add_argument("what", choices=("screenshots", "figures"))
    parser.add_argument("--folder", type=Path, help="where pictures of all views go")
    parser.add_argument(
        "--seconds", type=float, default=45.0, help="how long the pictured product has been running"
    )
    parser.add_argument("--minutes", type=float, default=30.0, help="how long the tab is left open")
    asked = parser.parse_args()
    if not (BUNDLE / INDEX).is_file():
        print("the page is not built: make page", file=sys.stderr)
        return 1
    try:
        if asked.what == "screenshots":
            only = README if asked.folder is None else None
            return 1 if screenshots(asked.folder or SHOTS, seconds=asked.seconds, only=only) else 0
        return figures(minutes=asked.minutes)
    except NoBrowser as missing:
        print(missing, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
