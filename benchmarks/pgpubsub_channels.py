"""A lockable channel of django-pgpubsub. It is imported once Django is set up."""

from dataclasses import dataclass

from pgpubsub.channel import Channel


@dataclass
class Orders(Channel):
    """Keeps its notifications in a table until they are processed."""

    lock_notifications = True

    order: int
    item: str
    amount: int
