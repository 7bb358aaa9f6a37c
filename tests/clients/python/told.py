"""What every script is given, and how it says what worked: one line of JSON a step, read by ``test_clients``.

The parts of a script between ``docs: begin`` and ``docs: end`` are shown in docs/clients.md as they stand here.
"""

import json
import os

url = os.environ["LLM_OPTIMIZER_URL"]
key = os.environ["LLM_OPTIMIZER_CLIENT_KEY"]
# May ask once a minute.
limited_key = os.environ["LLM_OPTIMIZER_LIMITED_KEY"]


def worked(step: str, **found: object) -> None:
    """Say that a step did, with what the test looks up in the product's log."""
    print(json.dumps({"step": step, **found}), flush=True)
