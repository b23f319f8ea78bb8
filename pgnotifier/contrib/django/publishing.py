"""Publish entries by the name of a channel, in the current transaction of Django."""

from collections.abc import Iterable
from typing import Any

from asgiref.sync import sync_to_async

from pgnotifier._log.composing import Key
from pgnotifier._log.publishing import Order
from pgnotifier._payload.plain import Encoder
from pgnotifier.contrib.django.channels import Channel


def publish(
    channel: Channel | str,
    payload: Any = "",
    key: str | None = None,
    *,
    order: Order = None,
    using: str | None = None,
    encoder: Encoder | None = None,
    notify: bool = False,
) -> int:
    """Publish an entry in the current transaction. It is delivered once that has committed.

    Outside of `atomic()`, it is published at once. It reaches durable subscriptions: receivers and
    tasks of a `Channel(..., durable=True)`, and those of `Notifier.subscribe(durable=True)`.

    Args:
        channel: The channel, or its name.
        payload: The value, of up to 64 MiB: see `Channel.notify`.
        key: What the entry is about, up to 1 kB: subscriptions get it with the entry.
        order: "key" makes transactions with the same key wait for each other: see
            `pgnotifier.durable.publish`.
        using: An alias of DATABASES. Default: the channel's database.
        encoder: As for `Channel.notify`.
        notify: Whether volatile listeners get it, too: see `pgnotifier.durable.publish`.

    Returns:
        The id of the entry.

    Raises:
        PgNotifierError: As for `pgnotifier.durable.publish`.
    """
    found = _find(channel)
    return found.publish(payload, key, order=order, using=using, encoder=encoder, notify=notify)


def publish_many(
    channel: Channel | str,
    payloads: Iterable[Any],
    key: Key = None,
    *,
    order: Order = None,
    using: str | None = None,
    encoder: Encoder | None = None,
    notify: bool = False,
) -> list[int]:
    """Publish an entry for each payload, in order, in the current transaction.

    Outside of `atomic()`, either all of them are published or none. For the arguments, see
    `publish` and `pgnotifier.durable.publish_many`.

    Returns:
        The ids of the entries, in order.
    """
    found = _find(channel)
    return found.publish_many(
        payloads, key, order=order, using=using, encoder=encoder, notify=notify
    )


async def apublish(
    channel: Channel | str,
    payload: Any = "",
    key: str | None = None,
    *,
    order: Order = None,
    using: str | None = None,
    encoder: Encoder | None = None,
    notify: bool = False,
) -> int:
    """Publish an entry in a coroutine: see `publish`."""
    publish_here = sync_to_async(publish)
    return await publish_here(
        channel, payload, key, order=order, using=using, encoder=encoder, notify=notify
    )


async def apublish_many(
    channel: Channel | str,
    payloads: Iterable[Any],
    key: Key = None,
    *,
    order: Order = None,
    using: str | None = None,
    encoder: Encoder | None = None,
    notify: bool = False,
) -> list[int]:
    """Publish an entry for each payload in a coroutine: see `publish_many`."""
    publish_here = sync_to_async(publish_many)
    return await publish_here(
        channel, payloads, key, order=order, using=using, encoder=encoder, notify=notify
    )


def _find(channel: Channel | str) -> Channel:
    return channel if isinstance(channel, Channel) else Channel(channel)
