"""Channels of several listeners, merged."""

from pgnotifier._inquiry.merging import merge_channels
from tests.reported import make_channel, make_report, make_subscription


def test_merges():
    """Figures are added up, what one listener alone has is kept, and each id counts once."""
    log = make_subscription("log", "orders")
    first = make_report(
        [
            make_channel("orders", 3, muted=True, rate=1.5),
            make_channel("stock", 1, durable=True, rate=None),
        ],
        [log],
    )
    second = make_report([make_channel("orders", 4, rate=2.0)], [log])
    orders, stock = merge_channels([first, second])
    assert (orders.name, orders.rate, orders.received) == ("orders", 3.5, 7)
    assert (orders.muted, orders.listeners, orders.durable) == (1, 2, False)
    assert orders.subscriptions == {"log"}
    assert (stock.name, stock.rate, stock.received) == ("stock", 0.0, 1)
    assert (stock.muted, stock.listeners, stock.durable) == (0, 1, True)
    assert stock.subscriptions == frozenset()
