"""A change of one subscription, from `subscribe()` until the server has answered."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pgnotifier.dispatch import Subscription

Key = tuple[Hashable, str]
"""An id and a channel, which identify a subscription."""


@dataclass(slots=True, eq=False)
class Tentative:
    """A channel that was added, and that the server hasn't accepted yet.

    Attributes:
        waiting: How many calls wait for its LISTEN. It is removed if all of them are refused.
    """

    waiting: int = 0


Claim = Mapping[str, Tentative]
"""The tentative channels that a call waits for, by name."""


@dataclass(slots=True, eq=False)
class Change:
    """A change of one subscription, until the server has accepted its channel.

    Attributes:
        id: The subscription's id.
        channel: The subscription's channel.
        before: The subscription with that id and channel until now. It is restored if the server
            refuses the change.
        undoing: The change that this one undoes, if any.
        is_overtaken: Whether another thread has changed the same subscription since.
        subscription: What is put into the registry; None until its dispatcher has bound it.
        target: What the dispatcher has made of it.
        for_gaps: The subscription that gets its gaps, if any.
        gap_target: What the dispatcher has made of that one.
        former: The change that put `before` there, if the server hasn't accepted that one yet.
        claim: The channel, if it is tentative.
        is_refused: Whether the server has refused the change.
        is_settled: Whether the server has accepted the change.
    """

    id: Hashable
    channel: str
    before: Subscription | None
    undoing: "Change | None" = None
    is_overtaken: bool = False
    subscription: Subscription | None = None
    target: Any = None
    for_gaps: Subscription | None = None
    gap_target: Any = None
    former: "Change | None" = None
    claim: Claim = field(default_factory=dict)
    is_refused: bool = False
    is_settled: bool = False

    @property
    def key(self) -> Key:
        """What identifies the subscription."""
        return self.id, self.channel
