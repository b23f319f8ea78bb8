"""Which functions a worker can import by name, and why it can't import the others."""

import importlib
import sys
import types

import callbacks
import pytest

from pgnotifier.contrib._queues.functions import find_path
from pgnotifier.errors import DispatcherMismatchError


@pytest.mark.parametrize(
    ("fn", "path"),
    [
        (callbacks.callback, "callbacks.callback"),
        (callbacks.Shop.static, "callbacks.Shop.static"),
    ],
)
def test_found(fn, path):
    """Functions of modules and static methods of classes are found by their path."""
    assert find_path("a", fn) == path


def in_main():
    """Return a function that seems to be defined in the main program."""
    fn = types.FunctionType(callbacks.callback.__code__, {}, "task")
    fn.__module__ = "__main__"
    return fn


@pytest.mark.parametrize(
    ("fn", "reason", "way_out"),
    [
        (callbacks.unnamed, "defined inside another function", "define it with `def` at the top"),
        (callbacks.make(), "defined inside another function", "define it with `def` at the top"),
        (in_main(), "defined in the main program", "move it to a module"),
        (callbacks.waiting, "coroutine", "subscribe a plain function that does so"),
        (callbacks.yielding, "generator", "subscribe a plain function that does so"),
        (callbacks.partial, "has no name", "subscribe a function of a module"),
        (callbacks.Shop(), "has no name", "subscribe a function of a module"),
        (
            callbacks.Shop().method,
            "imports callbacks.Shop.method gets something else",
            "under the name",
        ),
        (
            callbacks.wearing_its_name,
            "imports callbacks.callback gets something else",
            "under the name",
        ),
    ],
)
def test_refused(desk, fn, reason, way_out):
    """A function that a worker couldn't import is refused when subscribing, with a way out."""
    with pytest.raises(DispatcherMismatchError) as caught:
        desk.subscribe(fn, id="resize")
    assert str(caught.value).startswith("subscription 'resize': ")
    assert reason in str(caught.value)
    assert way_out in str(caught.value)


def test_a_class_method(desk, jobs):
    """A class method is found by its path, although each access makes another object."""
    desk.deliver(desk.subscribe(callbacks.Shop.of_class), "1")
    (job,) = jobs()
    assert job.func == callbacks.Shop.of_class


BEING_IMPORTED = """
from desk import subscribe

def on(**options):
    def subscribed(fn):
        subscribe(fn, **options)
        return fn
    return subscribed

@on(id="right")
def right(*args): ...

def decorated(fn):
    @functools.wraps(fn)
    def inner(*args): fn(*args)
    return inner

@decorated
@on(id="within")
def within(*args): ...

@on(id="replaced")
def replaced(*args): ...

replaced = right

@on(id="gone")
def gone(*args): ...

del gone
"""


def test_decorated_while_its_module_is_imported(desk, jobs, tmp_path, monkeypatch):
    """A function that a decorator subscribes is checked at its first job, when it has its name."""
    bindings = []
    there = types.ModuleType("desk")
    there.subscribe = lambda fn, **options: bindings.append(desk.subscribe(fn, **options))
    monkeypatch.setitem(sys.modules, "desk", there)
    (tmp_path / "shop_rq.py").write_text(f"import functools\n{BEING_IMPORTED}")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("shop_rq")
    monkeypatch.delitem(sys.modules, "shop_rq", raising=False)
    module = importlib.import_module("shop_rq")
    del bindings[:4]  # the bindings of the first import, which has been replaced
    for binding in bindings:
        desk.deliver(binding, "1", "2")
    assert [job.func for job in jobs()] == [module.right] * 2 + [module.within] * 2
    assert [str(exc).partition(" gets something else than ")[0] for exc in desk.reported] == [
        "subscription 'replaced': a worker that imports shop_rq.replaced"
    ] * 2 + ["subscription 'gone': a worker that imports shop_rq.gone"] * 2
