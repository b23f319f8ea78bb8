"""List what a dispatcher enqueues: each subscription with its task, its queue and its path."""

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pgnotifier.contrib.celery.arguments import show_id
from pgnotifier.contrib.celery.obstacles import find_hooks, find_obstacle, find_receivers
from pgnotifier.contrib.celery.targets import CeleryTarget

STAMPED, CELERY = "stamped", "apply_async"


@dataclass(frozen=True, slots=True)
class Enqueued:
    """What the notifications of one subscription become.

    Attributes:
        id: The subscription's id, as text.
        channel: The subscription's channel.
        task: The name of the task, or Celery's representation of a canvas.
        queue: The name of the queue; or `exchange/routing key` if there is an exchange.
        path: `stamped`, or `apply_async` if Celery makes each message.
        reason: Why messages can't be stamped, if the path is `apply_async`.
    """

    id: str
    channel: str
    task: str
    queue: str
    path: str
    reason: str | None = None

    def to_dict(self) -> Mapping[str, Any]:
        """Return the same as JSON-able values."""
        return asdict(self)


def take_inventory(
    app: Any,
    targets: Mapping[tuple[Hashable, str], CeleryTarget],
    found: Mapping[CeleryTarget, str],
) -> dict[tuple[Hashable, str], Enqueued]:
    """Return what the notifications of each subscription become, by id and channel.

    Args:
        app: The app, finalized.
        targets: The targets of the subscriptions, by id and channel.
        found: The obstacles that publishing has found, by target.
    """
    receivers = find_receivers() or find_hooks().unexpected
    inventory = {}
    for (key, channel), target in targets.items():
        reason = found.get(target) or find_obstacle(target) or receivers
        inventory[key, channel] = Enqueued(
            id=show_id(key),
            channel=channel,
            task=target.shown,
            queue=_find_queue(app, target),
            path=CELERY if reason else STAMPED,
            reason=reason,
        )
    return inventory


def _find_queue(app: Any, target: CeleryTarget) -> str:
    """Return the queue that the app's router chooses for the first task of a target."""
    try:
        options = {**target.own_options, **target.options}
        name = target.shown if target.task is None else target.task.name
        route = app.amqp.router.route(options, name, (), {}, target.task)
    except Exception as exc:  # noqa: BLE001 - a router may need arguments
        return f"? ({type(exc).__name__})"
    exchange = getattr(route.get("exchange"), "name", route.get("exchange"))
    if exchange:
        return f"{exchange}/{route.get('routing_key') or ''}"
    queue = route.get("queue")
    return str(getattr(queue, "name", queue))
