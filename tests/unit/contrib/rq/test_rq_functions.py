"""What a worker can find by its name, and the reasons why it can't find the rest."""

import types

import callbacks
import pytest

from pgnotifier.contrib.rq.functions import find_path
from pgnotifier.errors import DispatcherMismatchError


@pytest.mark.parametrize(
    ("fn", "path"),
    [
        (callbacks.callback, "callbacks.callback"),
        (callbacks.Shop.static, "callbacks.Shop.static"),
    ],
)
def test_found(fn, path):
    """Functions of modules are found, and those of classes that need no instance."""
    assert find_path("a", fn) == path


def in_main():
    """Be a function of the program that runs."""
    fn = types.FunctionType(callbacks.callback.__code__, {}, "task")
    fn.__module__ = "__main__"
    return fn


@pytest.mark.parametrize(
    ("fn", "reason", "way_out"),
    [
        (callbacks.unnamed, "made inside of another function", "define it with `def` at the top"),
        (callbacks.make(), "made inside of another function", "define it with `def` at the top"),
        (in_main(), "defined in the program that runs now", "move it to a module"),
        (callbacks.waiting, "coroutine", "subscribe a function that does"),
        (callbacks.yielding, "generator", "subscribe a function that does"),
        (callbacks.partial, "has no name", "subscribe a function"),
        (callbacks.Shop(), "has no name", "subscribe a function"),
        (callbacks.Shop().method, "isn't what callbacks.Shop.method is", "under the name"),
        (callbacks.wearing_its_name, "isn't what callbacks.callback is", "under the name"),
    ],
)
def test_refused(desk, fn, reason, way_out):
    """What a worker could not import is refused when it subscribes, with the way out."""
    with pytest.raises(DispatcherMismatchError) as caught:
        desk.subscribe(fn, id="resize")
    assert str(caught.value).startswith("subscription 'resize': ")
    assert reason in str(caught.value)
    assert way_out in str(caught.value)


def test_a_class_method(desk, jobs):
    """A method of a class is found as its class has it, though each look makes another object."""
    desk.deliver(desk.subscribe(callbacks.Shop.of_class), "1")
    (job,) = jobs()
    assert job.func == callbacks.Shop.of_class
