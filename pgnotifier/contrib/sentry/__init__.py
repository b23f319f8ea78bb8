"""Sentry: a transaction for each notification.

    import sentry_sdk
    from pgnotifier.contrib.sentry import instrument

    sentry_sdk.init(dsn="https://…", traces_sample_rate=0.1)
    notifier = instrument(Notifier("postgresql://localhost/shop"))

A callback in this process runs inside its transaction, and what it raises is an issue of Sentry's
that belongs to it. Tasks that are enqueued with Celery continue the transaction, if Sentry is
initialised in the workers as well. If a payload carries the `sentry-trace` or the `traceparent` of
the transaction that has notified, its trace is continued. docs/monitoring.md says more.
"""

from pgnotifier.contrib import naming_extra

with naming_extra("sentry"):
    import sentry_sdk as _sentry_sdk  # noqa: F401

from pgnotifier.contrib.sentry.instrumenting import instrument

__all__ = ["instrument"]
