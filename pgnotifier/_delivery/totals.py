"""Totals: what deliverers have delivered and dropped, those that have ended included."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from pgnotifier._delivery.deliverer import Deliverer


class Totals(NamedTuple):
    """What the dispatchers of each class have done, by the name of the class.

    Attributes:
        delivered: How many deliveries they have finished.
        dropped: How many notifications their overflow policy has dropped.
    """

    delivered: Mapping[str, int] = {}
    dropped: Mapping[str, int] = {}

    def plus(self, deliverers: Iterable[Deliverer]) -> "Totals":
        """Return new totals that include these deliverers."""
        delivered, dropped = Counter(self.delivered), Counter(self.dropped)
        for one in deliverers:
            delivered[one.name] += one.delivered
            dropped[one.name] += one.buffer.dropped
        return Totals(dict(delivered), dict(dropped))
