"""Instrument a notifier: have transactions made while Sentry records some."""

from typing import TypeVar

import sentry_sdk
from sentry_sdk.tracing_utils import has_tracing_enabled

from pgnotifier._runtime.tracing import Tracing
from pgnotifier.contrib.sentry.transactions import Transactions
from pgnotifier.notifier import Notifier

N = TypeVar("N", bound=Notifier)


def instrument(notifier: N) -> N:
    """Have a notifier make Sentry's transactions from its next start on; return it.

    If Sentry isn't initialised when it starts, or without `traces_sample_rate` and
    `traces_sampler`, it makes none, and is as fast as before.

    Args:
        notifier: The notifier, which isn't running yet.
    """
    made = Transactions()  # all dispatchers of a notifier share the traces

    def find_tracing() -> Tracing | None:
        client = sentry_sdk.get_client()
        return made if client.is_active() and has_tracing_enabled(client.options) else None

    notifier.trace_with("sentry", find_tracing)
    return notifier
