"""What a simulation plays by default: the product's own learning of one route."""

from optimizer.loop import RouteLoop
from optimizer.settings import RouteSettings
from optimizer.simulating.playing import Learning


def product_loop(route: RouteSettings, size: int) -> Learning:
    """A route's whole learning, for requests of ``size`` features."""
    return RouteLoop(route, size=size)
