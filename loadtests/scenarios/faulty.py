"""Every fault of ``loadtests.faults``, played once: how much of what is expected was met. Writes FAULTS.md."""

import uvloop

from loadtests.faults.card import PAGE, figures, markdown, summary
from loadtests.faults.runner import chosen, run
from loadtests.scenarios.context import Context, Report


def faults(context: Context) -> Report:
    """The product and a plain pass-through, side by side; no load, so no core of its own."""
    rows = uvloop.run(run(chosen([]), ticked=lambda _: None))
    PAGE.write_text(markdown(rows))
    missed = [f"missed: {row.scenario.name}: {row.product.misses[0]}" for row in rows if row.product.misses]
    return Report(
        figures=figures(rows), text=f"{summary(rows)}; every scenario is in FAULTS.md", rows=tuple(missed)
    )
