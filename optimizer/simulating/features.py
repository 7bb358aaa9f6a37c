"""Request bodies to vectors for a simulated route, by the workers' own code and the optimizer's own projection."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optimizer.context.features import ProjectionInfo, features_of
from optimizer.context.projection import LEAST_SKETCHES, fit
from optimizer.context.vector import compile_features, read_context
from optimizer.context.words import decode_sketch
from optimizer.routing import CHAT
from optimizer.settings import ContextSettings
from optimizer.simulating.world import IntArray
from policies.types import FloatArray


def vectors(
    bodies: Sequence[Mapping[str, Any]], context: ContextSettings, fitted_on: IntArray, *, seed: int = 0
) -> FloatArray:
    """The vectors of chat request bodies, shape (n, d).

    Where words count, the projection is fitted to the requests ``fitted_on`` alone, and there are no lexical features
    when those are too few for one.
    """
    plain = compile_features(features_of(context))
    found = [read_context(body, CHAT, plain) for body in bodies]
    sketches = [decode_sketch(found[row].sketch or b"") for row in fitted_on] if context.lexical else []
    if sum(len(sketch) > 0 for sketch in sketches) >= LEAST_SKETCHES:
        projection = fit(sketches, context.lexical_size, seed=seed)
        features = features_of(context, ProjectionInfo("prj-simulated", projection.size))
        condensed = compile_features(features, projection.matrix)
        found = [read_context(body, CHAT, condensed) for body in bodies]
    return np.array([context.x for context in found], dtype=np.float64)
