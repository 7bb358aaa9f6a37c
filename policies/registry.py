"""Every policy by the name that the configuration uses. A new one is one module and one line here."""

from collections.abc import Mapping
from types import MappingProxyType

from policies.epsilon_greedy import EpsilonGreedy
from policies.fixed import Fixed
from policies.thompson import Thompson
from policies.types import Policy
from policies.ucb import Ucb

POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        "thompson": Thompson(),
        "epsilon_greedy": EpsilonGreedy(),
        "ucb": Ucb(),
        "fixed": Fixed(),
    }
)
