"""The blocks about several nodes in their full form, for ``effective_document``.

Each loads to the settings that it was made of; secrets are put in their places by the caller.
"""

from dataclasses import asdict
from typing import Any

from proxy.config.load import Loaded

_FILES = ("ca_file", "certificate_file", "key_file")


def several_nodes(loaded: Loaded) -> dict[str, Any]:
    """``redis``, ``kafka`` and ``cluster``, as far as the file or the environment sets them."""
    file = loaded.source.file
    blocks = {"redis": file.redis, "kafka": file.kafka, "cluster": file.cluster}
    document = {
        key: block.model_dump(exclude_none=True) for key, block in blocks.items() if block is not None
    }
    kafka = loaded.settings.kafka
    if kafka is not None and "security" in document["kafka"]:
        # Where a relative path leads depends on where the file lies, and the document may lie elsewhere.
        files = {key: path for key, path in asdict(kafka.security).items() if key in _FILES and path}
        document["kafka"]["security"] |= files
    return document
