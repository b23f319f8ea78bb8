"""Listeners answer when somebody asks, and do what they are asked to by those who may."""

import base64
import threading

import psycopg
import pytest
from database import role
from psycopg.conninfo import make_conninfo

from pgnotifier import Notifier, OrderRefusedError
from pgnotifier._connection.parameters import Parameters
from pgnotifier._connection.session import notify_query
from pgnotifier._inquiry.answering import LOOK, Answering
from pgnotifier._inquiry.asking import Inquirer, ask
from pgnotifier._inquiry.messages import QUESTIONS, Inquiry, Order
from pgnotifier.cli.status.picture import find_problems
from pgnotifier.cli.tail.feeds import NotifierFeed
from pgnotifier.cli.tail.inbox import Inbox

LONG = 60.0
DEEP = base64.b64encode(b'{"id": ' + b"[" * 1_450).decode()
"""A question that is nested deeper than Python's stack."""


def shop(id, channel, payload, pid):
    """Do nothing."""


@pytest.fixture
def dsn(pgnotifier_dsn):
    """Return the connection string of the test's database."""
    return pgnotifier_dsn


@pytest.fixture
def inquirer(dsn):
    """Return an inquirer of the test's database."""
    with Inquirer(Parameters(dsn)) as one:
        yield one


@pytest.fixture
def start(dsn):
    """Return a function that starts a notifier of the test's database."""
    started = []

    def make(dsn=dsn, **settings):
        notifier = Notifier(dsn, **settings)
        started.append(notifier)
        notifier.subscribe("invoice", "orders", shop)
        return notifier

    yield make
    for one in started:
        one.stop()


def answer_threads():
    """Return how many threads answer."""
    return sum(one.name == "pgnotifier-answers" for one in threading.enumerate())


def test_nobody(dsn):
    """Without a listener, there is no answer, and asking takes no time."""
    assert ask(Parameters(dsn), LONG) == []


def test_a_listener_answers(start, dsn, db):
    """A listener says what it is, what it listens to, and where that goes."""
    notifier = start()
    (report,) = ask(Parameters(dsn), LONG)
    assert (report.state, report.kind, report.standby) == ("listening", "callbacks", None)
    assert [(one.name, one.received, one.muted) for one in report.channels] == [
        ("orders", 0, False)
    ]
    (one,) = report.subscriptions
    assert (one.id, one.channel, one.target) == ("invoice", "orders", f"{__name__}.shop")
    assert report.backend_pid in db.listening()
    assert report.to_dict()["subscriptions"][0]["id"] == "invoice"
    notifier.stop()
    assert answer_threads() == 0
    assert ask(Parameters(dsn), LONG) == []


def test_rates_and_delays(start, inquirer, eventually):
    """The second survey has rates, and says how long deliveries take."""
    notifier = start()
    inquirer.survey(LONG)
    for n in range(10):
        notifier.notify("orders", n)
    eventually(lambda: notifier.status().received == 10)
    (report,) = inquirer.survey(LONG).reports
    assert report.rate > 0
    assert report.channels[0].rate > 0
    assert report.dispatchers[0].delay.count > 0


def test_standbys_answer(start, inquirer, eventually):
    """A standby answers as well, and again once it leads."""
    first, second = start(standby="shop"), start(standby="shop")
    survey = inquirer.survey(LONG)
    assert [one.state for one in survey.reports] == ["listening", "standby"]
    assert len({one.backend_pid for one in survey.reports}) == 2
    first.stop()
    eventually(lambda: second.status().state == "listening")
    assert [one.state for one in inquirer.survey(LONG).reports] == ["listening"]


def test_while_nothing_is_read(dsn, db, make_notifier, inquirer, eventually):
    """A listener that pauses as its buffer is full answers, and says that it is full."""
    go = threading.Event()
    notifier = make_notifier(dsn, buffer_size=10)
    notifier.subscribe("stuck", "orders", lambda *_: go.wait(LONG), autorun=True)
    try:
        db.execute("SELECT pg_notify('orders', n::text) FROM generate_series(1, 100000) n")
        eventually(lambda: notifier.status().dispatchers[0].full)
        for _ in range(2):
            survey = inquirer.survey(LONG)
            assert survey.silent == ()
            (report,) = survey.reports
            assert [one.full for one in report.dispatchers] == [True]
            assert "nothing is read since" in " ".join(find_problems(survey, None))
        assert 0 < report.received < 100_000
    finally:
        go.set()
    eventually(lambda: notifier.status().received == 100_000)
    (report,) = inquirer.survey(LONG).reports
    assert report.received == 100_000


def test_a_look_that_fails():
    """While the server can't be asked during a pause, it isn't asked every second."""
    once, again = threading.Event(), threading.Event()

    class Nowhere:
        def connect(self):
            (again if once.is_set() else once).set()
            raise OSError("the server is down")

    answering = Answering(Nowhere(), lambda _: None, None)
    answering.watch(is_paused=True)
    try:
        assert once.wait(LONG)
        assert not again.wait(2 * LOOK)
    finally:
        answering.close(LONG)
    assert answer_threads() == 0


def test_no_answers(start, dsn, db):
    """A notifier without answers doesn't listen to questions, and isn't marked."""
    start(answers=False)
    with Inquirer(Parameters(dsn)) as one:
        survey = one.survey(LONG)
    assert (survey.reports, survey.silent) == ((), ())


def test_tail_is_not_a_listener(dsn, inquirer):
    """What `tail` listens with isn't among the listeners: it delivers nothing."""
    feed = NotifierFeed(Parameters(dsn), ["orders"], Inbox())
    feed.start()
    try:
        survey = inquirer.survey(LONG)
    finally:
        feed.stop()
    assert (survey.reports, survey.silent) == ((), ())


def test_a_lost_connection(start, inquirer, db, eventually):
    """A listener answers after its connection was lost, and so does the inquirer ask again."""
    notifier = start()
    (before,) = inquirer.survey(LONG).reports
    db.terminate()
    eventually(lambda: notifier.status().reconnects >= 1)
    eventually(lambda: notifier.status().state == "listening")
    eventually(lambda: asks_again(inquirer))
    (after,) = inquirer.survey(LONG).reports
    assert (after.id, after.reconnects) == (before.id, 1)
    assert (after.gaps, after.last_gaps[0].channels) == (1, ("orders",))


def asks_again(inquirer):
    """Return whether an inquirer that has lost its connection gets answers."""
    try:
        return len(inquirer.survey(LONG).reports) == 1
    except ConnectionError:
        return False


def test_a_flood_is_answered_a_few_times(start, inquirer, db, dsn):
    """Many questions get one answer, and what isn't a question gets none."""
    start()
    inquirer.survey(LONG)
    (before,) = inquirer.survey(LONG).reports
    with psycopg.connect(dsn, autocommit=True) as asker:
        asker.execute("LISTEN pgnotifier_answers")
        for text in [Inquiry().encode()] * 500 + ["nonsense", "x" * 7000, DEEP] * 100:
            db.notify(QUESTIONS, text)
        inquirer.survey(LONG)
        answers = [one for one in asker.notifies(timeout=1) if one.payload.startswith(before.id)]
    assert len(answers) < 100


# --- orders ---


def test_muting(start, inquirer):
    """A listener that takes orders mutes a channel, or one subscription."""
    notifier = start(remote_commands=True)
    (report,) = inquirer.survey(LONG).reports
    assert report.takes_orders
    inquirer.order(Order(report.id, "mute", "orders"), LONG)
    (report,) = inquirer.survey(LONG).reports
    assert [one.muted for one in report.channels] == [True]
    inquirer.order(Order(report.id, "unmute", "orders"), LONG)
    inquirer.order(Order(report.id, "mute", "orders", "invoice"), LONG)
    (report,) = inquirer.survey(LONG).reports
    assert [one.muted for one in report.channels] == [False]
    assert [one.muted for one in report.subscriptions] == [True]
    assert notifier.is_running()


@pytest.mark.parametrize(
    ("order", "why"),
    [(("mute", "nope"), "no channel"), (("mute", "orders", "nope"), "no subscription")],
)
def test_what_is_not_there(start, inquirer, order, why):
    """A channel or a subscription that isn't there can't be muted."""
    start(remote_commands=True)
    (report,) = inquirer.survey(LONG).reports
    with pytest.raises(OrderRefusedError, match=why):
        inquirer.order(Order(report.id, *order), LONG)


def test_orders_are_off_by_default(start, inquirer):
    """A listener takes no orders unless it was made to."""
    start()
    (report,) = inquirer.survey(LONG).reports
    assert not report.takes_orders
    with pytest.raises(OrderRefusedError, match="remote_commands=True"):
        inquirer.order(Order(report.id, "mute", "orders"), LONG)


@pytest.fixture
def other_role(dsn):
    """Return a connection string with an ordinary role."""
    with role(dsn) as name:
        yield make_conninfo(dsn, user=name)


def test_other_roles_may_ask_but_not_order(start, other_role, dsn):
    """A role that may not end the listener's session gets reports, and can't mute anything."""
    notifier = start(remote_commands=True)
    with Inquirer(Parameters(other_role)) as stranger:
        (report,) = stranger.survey(LONG).reports
        with pytest.raises(OrderRefusedError, match="may end the listener's session"):
            stranger.order(Order(report.id, "mute", "orders"), LONG)
    (report,) = ask(Parameters(dsn), LONG)
    assert not report.channels[0].muted
    assert notifier.is_running()


def test_a_listener_of_an_ordinary_role(start, other_role, inquirer):
    """It obeys its own role; a superuser's session is hidden from it, so that one is refused."""
    start(other_role, remote_commands=True)
    (report,) = inquirer.survey(LONG).reports
    order = Order(report.id, "mute", "orders")
    with pytest.raises(OrderRefusedError, match="must be allowed to see"):
        inquirer.order(order, LONG)
    with Inquirer(Parameters(other_role)) as same:
        same.order(order, LONG)


def test_an_order_under_the_name_of_another_session(start, inquirer, other_role):
    """Neither the wrong start of a session nor that of another session makes an order valid."""
    start(remote_commands=True)
    (report,) = inquirer.survey(LONG).reports
    inquirer._connected()
    order = Order(report.id, "mute", "orders")
    for session in ("", "1700000000.5", inquirer._session):
        with psycopg.connect(other_role, autocommit=True) as stranger:
            question = Inquiry("0" * 16, session, order)
            stranger.execute(notify_query(QUESTIONS, question.encode()))
            (report,) = inquirer.survey(LONG).reports
        assert not report.channels[0].muted


def test_an_order_of_a_session_that_has_ended(start, inquirer, dsn):
    """An order isn't carried out if the session that has sent it is gone by then."""
    start(remote_commands=True)
    (report,) = inquirer.survey(LONG).reports
    with psycopg.connect(dsn, autocommit=True) as gone:
        order = Order(report.id, "mute", "orders")
        question = Inquiry("0" * 16, inquirer._session, order)
        gone.execute(notify_query(QUESTIONS, question.encode()))
    (report,) = inquirer.survey(LONG).reports
    assert not report.channels[0].muted
