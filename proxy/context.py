"""A request's features, for the decision about it: what ``optimizer.context`` makes of an envelope.

Imports numpy, so workers import this module only when a table has a route that looks at context. The content is read
in memory and forgotten; what leaves is the vector and, where words count, hashes of them.
"""

from collections.abc import Mapping

from optimizer.context.vector import CompiledFeatures, Context, compile_features, read_context
from proxy.envelope import Envelope

__all__ = ["CompiledFeatures", "Context", "compile_features", "extract"]


def extract(envelope: Envelope, headers: Mapping[bytes, bytes], plan: CompiledFeatures) -> Context:
    """The context of one request; ``headers`` with lower-cased names, as ``proxy.http1`` gives them."""
    return read_context(
        envelope.doc, envelope.endpoint, plan, headers=headers, output_limit=envelope.max_output_tokens
    )
