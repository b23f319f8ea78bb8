"""What a dispatcher enqueues: for each subscription its task, its queue, and how it gets there."""

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pgnotifier.contrib.celery.arguments import show_id
from pgnotifier.contrib.celery.obstacles import find_hooks, find_obstacle, find_receivers
from pgnotifier.contrib.celery.targets import CeleryTarget

STAMPED, CELERY = "stamped", "apply_async"


@dataclass(frozen=True, slots=True)
class Enqueued:
    """One subscription.

    Attributes:
        id: Its id, as it is shown.
        channel: Its channel.
        task: The name of the task, or how Celery shows the canvas.
        queue: The queue's name; or the exchange and routing key, where there are some.
        path: `stamped`, or `apply_async` if Celery makes each message.
        reason: Why Celery has to, if so.
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
    """Return what each subscription's notifications become, by id and channel.

    Args:
        app: The app, finalized.
        targets: By id and channel.
        found: What kept targets from being stamped so far.
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
    """Return where the router sends the first task that is published."""
    try:
        options = {**target.own_options, **target.options}
        name = target.shown if target.task is None else target.task.name
        route = app.amqp.router.route(options, name, (), {}, target.task)
    except Exception as exc:  # noqa: BLE001 - a router may look at arguments, and fail without
        return f"? ({type(exc).__name__})"
    exchange = getattr(route.get("exchange"), "name", route.get("exchange"))
    if exchange:
        return f"{exchange}/{route.get('routing_key') or ''}"
    queue = route.get("queue")
    return str(getattr(queue, "name", queue))
