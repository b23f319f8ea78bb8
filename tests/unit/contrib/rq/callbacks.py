"""Callbacks for the tests, in a module that a worker can import."""

import functools

called = []


def callback(*args):
    """Record the arguments."""
    called.append(args)


def other(*args):
    """Do nothing."""


def failing(*args):
    """Fail."""
    raise ValueError("no such order")


async def waiting(*args):
    """Wait."""


def yielding(*args):
    """Yield."""
    yield


class Shop:
    """A class with methods."""

    @staticmethod
    def static(*args):
        """Do nothing."""

    @classmethod
    def of_class(cls, *args):
        """Do nothing."""

    def method(self, *args):
        """Do nothing."""

    def __call__(self, *args):
        """Do nothing."""


def make():
    """Return a function that has no name in the module."""

    def inner(*args):
        """Do nothing."""

    return inner


unnamed = lambda *args: None  # noqa: E731
partial = functools.partial(callback, 1)


@functools.wraps(callback)
def wearing_its_name(*args):
    """Have the name of `callback`."""
