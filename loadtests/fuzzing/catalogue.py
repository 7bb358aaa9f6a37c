"""All targets, in the order in which they are shown."""

from loadtests.fuzzing import documents, files, http1, streams
from loadtests.fuzzing.target import Target


def targets() -> list[Target]:
    """Made anew for each run: some hold a temporary directory."""
    return [*streams.targets(), *documents.targets(), *http1.targets(), *files.targets()]
