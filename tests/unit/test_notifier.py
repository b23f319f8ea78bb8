"""What a notifier refuses at the call that causes it, and what it does without a server."""

import inspect

import psycopg
import pytest

import pgnotifier
from pgnotifier import (
    ArgumentTypeError,
    ChannelNameError,
    ConfigurationError,
    Dispatcher,
    DispatcherMismatchError,
    InlineDispatcher,
    Notifier,
    PgNotifierError,
    UnknownOptionError,
)


@pytest.fixture(autouse=True)
def no_server(monkeypatch):
    """Fail if anything connects."""

    def connect(*_, **__):
        pytest.fail("connected")

    monkeypatch.setattr(psycopg.Connection, "connect", connect)


@pytest.fixture
def offline():
    """Return a notifier for a server that doesn't exist."""
    return Notifier({"host": "nowhere.invalid", "port": 1})


class Queue(Dispatcher):
    """A dispatcher to a queue that takes the option `queue` and records its calls."""

    starts_listener = False

    def __init__(self):
        self.calls = []

    def attach(self, notifier):
        """Record the notifier."""
        self.calls.append(("attach", notifier))

    def bind(self, subscription):
        """Record the subscription."""
        if set(subscription.options) - {"queue"}:
            raise UnknownOptionError("no such option")
        self.calls.append(("bind", subscription.id, dict(subscription.options)))
        return subscription.fn

    def unbind(self, subscription):
        """Record the subscription."""
        self.calls.append(("unbind", subscription.id))

    def dispatch(self, batch):
        """Acknowledge the batch without delivering it."""
        batch.done(len(batch))


def test_signatures():
    """The methods have the documented argument names, order and defaults."""
    wanted = {
        "add_channels": "(self, channels, autorun=True)",
        "add_channel": "(self, channel, autorun=True)",
        "remove_channels": "(self, channels, autorun=True)",
        "remove_channel": "(self, channel, autorun=True)",
        "get_channels": "(self)",
        "subscribe": (
            "(self, id, channel, fn, autorun=True, *, dispatcher=None, batch=None, debounce=None, "
            "key=None, on_gap=None, durable=False, start=None, max_attempts=None, "
            "on_failure=None, max_lag=None, max_age=None, **options)"
        ),
        "unsubscribe": "(self, id, channel, autorun=True, *, forget=False)",
        "seek": "(self, id, channel, to)",
        "get_subscriptions": "(self)",
        "start": "(self)",
        "run": "(self)",
        "restart": "(self)",
        "is_running": "(self)",
        "status": "(self)",
    }
    for name, signature in wanted.items():
        found = inspect.signature(getattr(Notifier, name))
        bare = [p.replace(annotation=inspect.Parameter.empty) for p in found.parameters.values()]
        assert str(inspect.Signature(bare)) == signature, name
    assert set(pgnotifier.__all__) <= set(dir(pgnotifier))


def test_making_does_not_connect(offline):
    """A notifier doesn't connect when it is made, queried or changed with `autorun=False`."""
    offline.add_channels(["a", "b"], autorun=False)
    offline.add_channel("c", autorun=False)
    offline.subscribe(1, "d", print, autorun=False)
    offline.remove_channel("c", autorun=False)
    offline.remove_channels(["b", "zzz"])
    offline.unsubscribe(1, "zzz")
    offline.mute_channels()
    offline.unmute_channels()
    assert offline.get_channels() == {"a", "d"}
    assert offline.get_subscriptions() == {"d": {1: print}}
    assert not offline.is_running()
    assert offline.wait(0)
    assert offline.stop() == 0
    assert repr(offline) == "<Notifier stopped, 2 channels, host=nowhere.invalid port=1>"


@pytest.mark.parametrize("name", ["", "a" * 64, "ü" * 32, "a\0b", "\udc80"])
def test_bad_channel_names(offline, name):
    """Every method refuses a name that can't be a channel, and nothing changes."""
    for call in (
        lambda: offline.add_channels(["good", name]),
        lambda: offline.add_channels(name),
        lambda: offline.add_channel(name),
        lambda: offline.remove_channels([name]),
        lambda: offline.remove_channel(name),
        lambda: offline.subscribe(1, name, print),
        lambda: offline.unsubscribe(1, name),
        lambda: offline.mute_channels(name),
        lambda: offline.unmute_subscriber(1, [name]),
        lambda: offline.on(name),
        lambda: offline.notify(name),
    ):
        with pytest.raises(ChannelNameError):
            call()
    assert offline.get_channels() == set()


@pytest.mark.parametrize("name", [None, 1, b"a", ["a"], ("a",), {"a"}])
def test_channels_that_are_not_str(offline, name):
    """A method that takes one channel refuses anything but a str, even a list of str."""
    for call in (
        lambda: offline.add_channel(name),
        lambda: offline.remove_channel(name),
        lambda: offline.subscribe(1, name, print),
        lambda: offline.unsubscribe(1, name),
        lambda: offline.notify(name),
        lambda: offline.add_channels([name]),
    ):
        with pytest.raises(ArgumentTypeError):
            call()
    assert offline.get_channels() == set()


def test_bad_ids_and_callbacks(offline):
    """An unhashable id and a callback that can't be called are refused, and nothing changes."""
    for bad in ([], {}, set(), ([],)):
        with pytest.raises(ArgumentTypeError, match="hashable"):
            offline.subscribe(bad, "a", print)
        with pytest.raises(ArgumentTypeError, match="hashable"):
            offline.unsubscribe(bad, "a")
        with pytest.raises(ArgumentTypeError, match="hashable"):
            offline.mute_subscriber(bad)
    for fn in (None, "print", 42):
        with pytest.raises(ArgumentTypeError, match="callable"):
            offline.subscribe(1, "a", fn)
    assert offline.get_channels() == set()


def test_refused_by_the_dispatcher(offline):
    """A subscription that its dispatcher refuses isn't registered and changes nothing."""

    async def coroutine(*_):
        """Do nothing."""

    offline.subscribe(1, "a", print, autorun=False)
    with pytest.raises(DispatcherMismatchError):
        offline.subscribe(1, "a", coroutine)
    with pytest.raises(DispatcherMismatchError):
        offline.subscribe(1, "b", coroutine)
    with pytest.raises(UnknownOptionError, match="'queue'"):
        offline.subscribe(1, "a", print, queue="low")
    with pytest.raises(UnknownOptionError):
        offline.subscribe(2, "b", print, dispatcher=Queue(), countdown=3)
    assert offline.get_subscriptions() == {"a": {1: print}}
    assert offline.get_channels() == {"a"}


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"on_error": 1}, ArgumentTypeError),
        ({"on_gap": "print"}, ArgumentTypeError),
        ({"decoder": "json"}, ArgumentTypeError),
        ({"dispatcher": InlineDispatcher}, ArgumentTypeError),
        ({"dispatcher": print}, ArgumentTypeError),
        ({"buffer_size": 0}, ConfigurationError),
        ({"buffer_size": 1.5}, ArgumentTypeError),
        ({"overflow": "drop"}, ConfigurationError),
        ({"overflow": None}, ArgumentTypeError),
        ({"no_such_option": 1}, TypeError),
    ],
)
def test_bad_settings(settings, error):
    """An invalid setting is refused by name when the notifier is made."""
    with pytest.raises(error, match=next(iter(settings))):
        Notifier({}, **settings)


def test_settings_are_keywords():
    """Settings other than the connection are keyword-only."""
    with pytest.raises(TypeError):
        Notifier({}, InlineDispatcher())


def test_a_dispatcher_class_for_a_subscription(offline):
    """A subscription's dispatcher has to be an instance, not a class."""
    with pytest.raises(ArgumentTypeError, match="an instance of"):
        offline.subscribe(1, "a", print, dispatcher=InlineDispatcher)


def test_queues_do_not_start_it():
    """With a dispatcher to a queue, `autorun=True` doesn't start the listener."""
    notifier = Notifier({"host": "nowhere.invalid"}, dispatcher=Queue())
    notifier.subscribe(1, "a", print)
    notifier.add_channels(["b"])
    assert not notifier.is_running()
    mixed = Notifier({"host": "nowhere.invalid"})
    mixed.subscribe(1, "a", print, dispatcher=Queue())
    mixed.subscribe(2, "a", print)
    assert not mixed.is_running()
    never = Notifier({"host": "nowhere.invalid"}, autorun=False)
    never.subscribe(1, "a", print)
    assert not never.is_running()


def test_what_is_called_of_a_dispatcher():
    """A dispatcher is attached once, and called for each subscription added or removed."""
    queue, other = Queue(), Queue()
    notifier = Notifier({}, dispatcher=queue, autorun=False)
    notifier.subscribe(1, "a", print, queue="low")
    notifier.subscribe(1, "a", print, queue="high")
    notifier.subscribe(2, "a", print, dispatcher=other)
    notifier.subscribe(1, "a", print, dispatcher=other)
    notifier.subscribe(3, "b", print)
    notifier.remove_channels(["b"])
    notifier.unsubscribe(2, "a")
    assert queue.calls == [
        ("attach", notifier),
        ("bind", 1, {"queue": "low"}),
        ("bind", 1, {"queue": "high"}),
        ("unbind", 1),
        ("bind", 3, {}),
        ("unbind", 3),
    ]
    assert other.calls == [("attach", notifier), ("bind", 2, {}), ("bind", 1, {}), ("unbind", 2)]


def test_on_returns_the_function(offline):
    """The decorator returns the function itself; its default id is module and qualname."""

    @offline.on(["a", "b"], autorun=False)
    def callback(id, channel, payload, pid):
        """Do nothing."""

    assert inspect.isfunction(callback)
    name = f"{__name__}.test_on_returns_the_function.<locals>.callback"
    assert offline.get_subscriptions() == {"a": {name: callback}, "b": {name: callback}}
    assert offline.on("c", (1, 2), autorun=False)(callback) is callback
    assert offline.get_subscriptions()["c"] == {(1, 2): callback}


def test_errors_descend_from_ours():
    """Every error is a PgNotifierError, so that one `except` is enough."""
    found = [
        one
        for one in vars(pgnotifier.errors).values()
        if inspect.isclass(one) and one.__module__ == "pgnotifier.errors"
    ]
    assert len(found) > 10
    assert all(issubclass(error, PgNotifierError) for error in found)
    assert len(found) >= 14
    assert {error.__name__ for error in found} <= set(pgnotifier.__all__)
