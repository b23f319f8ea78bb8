"""The registry as a value, and the checks of channel names and ids."""

import pytest

from pgnotifier import ArgumentTypeError, ChannelNameError, InlineDispatcher
from pgnotifier._registry.checks import (
    check_channel,
    check_channels,
    check_id,
    check_unreserved,
    is_reserved,
)
from pgnotifier._registry.registry import Registry
from pgnotifier.dispatch import Binding, Subscription

INLINE = InlineDispatcher()


def binding(id, channel, dispatcher=INLINE, muted=False):
    subscription = Subscription(id, channel, print, dispatcher, muted=muted)
    return Binding(subscription, print, lambda *_: None)


def ids(registry, channel):
    return [b.id for b in registry.bindings(channel)]


def lane_ids(registry, channel):
    return [(dispatcher, [b.id for b in found]) for dispatcher, found in registry.lanes(channel)]


def test_changes_make_new_values():
    """Each change returns a new registry and leaves the one before as it was."""
    empty = Registry()
    added = empty.add(["a", "b"])
    bound = added.bind(binding(1, "a"))
    muted = bound.mute("a", muted=True)
    unbound = bound.unbind(1, "a")
    removed = bound.remove(["a"])
    assert set(empty) == set()
    assert set(added) == {"a", "b"}
    assert ids(added, "a") == []
    assert ids(bound, "a") == [1]
    assert not bound.is_muted("a")
    assert muted.is_muted("a")
    assert set(unbound) == set(removed) == {"b"}
    assert len(bound) == 2


def test_no_ops_keep_what_is_there():
    """Adding an existing channel, or removing or muting an unknown one, changes nothing."""
    registry = Registry().add(["a"]).bind(binding(1, "a"))
    assert ids(registry.add(["a"]), "a") == [1]
    assert set(registry.remove(["zzz"])) == {"a"}
    assert registry.unbind(2, "a") is registry
    assert registry.unbind(1, "zzz") is registry
    assert registry.mute("zzz", muted=True) is registry
    assert registry.mute("a", muted=False) is registry


def test_an_unknown_channel_has_nothing():
    """An unknown channel has no lanes and no bindings, and isn't muted."""
    registry = Registry()
    assert registry.lanes("a") == ()
    assert list(registry.bindings("a")) == []
    assert registry.binding(1, "a") is None
    assert not registry.is_muted("a")
    assert "a" not in registry


def test_replacing_keeps_the_place():
    """Subscriptions keep the order in which they were made, even when one is replaced."""
    registry = Registry()
    for name in ("x", "y", "z"):
        registry = registry.bind(binding(name, "a"))
    again = binding("x", "a")
    registry = registry.bind(again)
    assert ids(registry, "a") == ["x", "y", "z"]
    assert registry.binding("x", "a") is again


def test_unsubscribing_the_last_removes_the_channel():
    """A channel is removed with its last subscription, even if it was added by itself."""
    registry = Registry().add(["a"]).bind(binding(1, "a")).bind(binding(2, "a"))
    registry = registry.unbind(1, "a")
    assert set(registry) == {"a"}
    assert set(registry.unbind(2, "a")) == set()


def test_lanes_group_by_dispatcher():
    """A channel has one lane for each dispatcher, with its bindings in subscribing order."""
    other = InlineDispatcher()
    registry = Registry()
    for number, dispatcher in ((1, INLINE), (2, other), (3, INLINE), (4, other)):
        registry = registry.bind(binding(number, "a", dispatcher))
    assert lane_ids(registry, "a") == [(INLINE, [1, 3]), (other, [2, 4])]


def test_muted_have_no_lanes():
    """A muted subscription is in no lane, and a muted channel has none."""
    registry = Registry().bind(binding(1, "a")).bind(binding(2, "a", muted=True))
    assert lane_ids(registry, "a") == [(INLINE, [1])]
    silent = registry.mute("a", muted=True)
    assert silent.lanes("a") == ()
    assert ids(silent, "a") == [1, 2]
    assert lane_ids(silent.bind(binding(3, "a")), "a") == []
    assert lane_ids(silent.mute("a", muted=False), "a") == [(INLINE, [1])]


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "a" * 63,
        "ü" * 31,
        "😀" * 15,
        " ",
        'My "odd" channel; drop table x',
        "New\nline",
        "%s",
        "it's",
        "\\",
    ],
)
def test_good_names(name):
    """Any Unicode text of 1 to 63 bytes is a valid channel name."""
    assert check_channel(name) == name
    assert check_channels(name) == [name]


@pytest.mark.parametrize("name", ["pgnotifier:", "pgnotifier:celery:default"])
def test_reserved_names(name):
    """A channel may have such a name, but users can't publish to it durably."""
    assert check_channel(name) == name
    assert is_reserved(name)
    with pytest.raises(ChannelNameError, match=f"'{name}' is reserved"):
        check_unreserved(name)


@pytest.mark.parametrize("name", ["pgnotifier", "pgnotifier_wake", "Pgnotifier:", "my.pgnotifier:"])
def test_names_that_are_not_reserved(name):
    """Only the whole prefix is reserved."""
    assert check_unreserved(name) == name


@pytest.mark.parametrize("name", ["", "a" * 64, "ü" * 32, "😀" * 16, "a\0b", "\0", "\ud800"])
def test_bad_names(name):
    """A name that PostgreSQL can't LISTEN to is refused with ChannelNameError, a ValueError."""
    for give in (lambda: check_channel(name), lambda: check_channels(["a", name])):
        with pytest.raises(ChannelNameError) as caught:
            give()
        assert isinstance(caught.value, ValueError)
        str(caught.value).encode()  # it can be logged


@pytest.mark.parametrize("name", [None, 1, b"a", ["a"], ("a",), object()])
def test_names_that_are_not_str(name):
    """A name that isn't a str is refused with a TypeError that names its type."""
    with pytest.raises(ArgumentTypeError, match=type(name).__name__) as caught:
        check_channel(name)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("channels", [None, 1, b"ab", bytearray(b"ab"), object()])
def test_no_channels(channels):
    """Anything but a str or an iterable is refused, and so are bytes."""
    with pytest.raises(ArgumentTypeError):
        check_channels(channels)


@pytest.mark.parametrize("channels", [[["a"]], [("a", "b")], ["a", None], [b"a"], {"a", 1}])
def test_nested_iterables(channels):
    """An iterable of channels may not contain anything but names."""
    with pytest.raises(ArgumentTypeError):
        check_channels(channels)


@pytest.mark.parametrize(
    "channels",
    [
        ["b", "a", "b"],
        ("b", "a"),
        {"b": 1, "a": 2},
        {"b": 1, "a": 2}.keys(),
        (name for name in "ba"),
        iter(["b", "a", "a"]),
    ],
)
def test_iterables(channels):
    """Any iterable of names is accepted, in its order, without duplicates."""
    assert check_channels(channels) == ["b", "a"]


def test_empty_iterables_and_sets():
    """An empty iterable gives no names, and sets are accepted."""
    assert check_channels([]) == check_channels(()) == []
    assert sorted(check_channels({"a", "b"})) == ["a", "b"]


@pytest.mark.parametrize("id", [42, "x", (2, "y"), frozenset({1}), None, True, b"z", 1.5, object()])
def test_hashable_ids(id):
    """Any hashable object is a valid id."""
    assert check_id(id) is id


@pytest.mark.parametrize("id", [[], {}, set(), (1, []), bytearray()])
def test_unhashable_ids(id):
    """An unhashable id, even a nested one, is refused with a hint at tuple and frozenset."""
    with pytest.raises(ArgumentTypeError, match="use a tuple or frozenset"):
        check_id(id)
