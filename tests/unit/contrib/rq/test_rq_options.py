"""Options: how they are checked when subscribing, and what they become in the jobs."""

import callbacks
import pytest
from rq import Callback, Queue, Retry
from rq.serializers import JSONSerializer

from pgnotifier.contrib.rq import RQDispatcher
from pgnotifier.errors import (
    ArgumentTypeError,
    ConfigurationError,
    DispatcherMismatchError,
    UnknownOptionError,
)


def test_unknown(desk):
    """An unknown option is refused, and the error names the nearest option."""
    with pytest.raises(UnknownOptionError, match=r"job_timout= .* did you mean 'job_timeout'\?"):
        desk.subscribe(callbacks.callback, job_timout=5)
    with pytest.raises(UnknownOptionError, match="there are at_front, description"):
        desk.subscribe(callbacks.callback, zzz=5)


@pytest.mark.parametrize(
    ("options", "error", "what"),
    [
        ({"at_front": 1}, ArgumentTypeError, "at_front must be True or False, not 1"),
        ({"queue": 5}, ArgumentTypeError, "queue must be a name or an rq.Queue, not 5"),
        ({"queue": ""}, ArgumentTypeError, "queue must be a name"),
        (
            {"retry": 0},
            ArgumentTypeError,
            "an rq.Retry or a number of retries, not 0",
        ),
        ({"retry": True}, ArgumentTypeError, "not True"),
        ({"retry": "3"}, ArgumentTypeError, "not '3'"),
        ({"on_failure": 5}, ArgumentTypeError, "on_failure must be a function or an rq.Callback"),
        ({"on_success": callbacks.unnamed}, DispatcherMismatchError, "define it with `def`"),
        ({"job_timeout": "soon"}, ConfigurationError, "RQ can't make a job with timeout='soon'"),
        ({"ttl": "soon"}, ConfigurationError, "RQ can't make a job with ttl='soon'"),
    ],
)
def test_refused(desk, options, error, what):
    """Values that RQ couldn't use are refused, with the subscription's id and the reason."""
    with pytest.raises(error) as caught:
        desk.subscribe(callbacks.callback, id="resize", **options)
    assert "subscription 'resize'" in str(caught.value)
    assert what in str(caught.value)


def test_in_the_job(desk, jobs):
    """Each option is set on the job."""
    binding = desk.subscribe(
        callbacks.callback,
        id="resize",
        queue="images",
        job_timeout=17,
        result_ttl=18,
        ttl=1900,
        failure_ttl=20,
        meta={"who": "shop"},
        retry=3,
        on_success=callbacks.other,
        on_failure=Callback(callbacks.other, timeout=5),
        on_stopped="callbacks.other",
    )
    desk.deliver(binding, "1")
    (job,) = jobs("images")
    assert (job.timeout, job.result_ttl, job.ttl, job.failure_ttl) == (17, 18, 1900, 20)
    assert job.meta == {"who": "shop"}
    assert job.retries_left == 3
    assert job.success_callback is callbacks.other
    assert (job.failure_callback, job.failure_callback_timeout) == (callbacks.other, 5)
    assert job.stopped_callback is callbacks.other
    assert (job.description, job.origin) == ("resize", "images")


@pytest.mark.parametrize("option", ["queue", "description"])
def test_a_lone_surrogate(desk, jobs, option):
    """A lone surrogate, which Redis can't store, is refused in an option and escaped in an id."""
    with pytest.raises(ConfigurationError, match="surrogates not allowed"):
        desk.subscribe(callbacks.callback, **{option: "\ud800"})
    desk.deliver(desk.subscribe(callbacks.callback, id="\ud800"), "1")
    (job,) = jobs()
    assert job.args[0] == "\ud800"
    assert job.description == "\\ud800"


def test_repeats(desk, jobs):
    """A Repeat is passed on to the job, if this version of RQ has it."""
    rq_repeat = pytest.importorskip("rq.repeat", reason="RQ 2.0 and 2.1 repeat nothing")
    repeat = rq_repeat.Repeat(times=2, interval=60)
    desk.deliver(desk.subscribe(callbacks.callback, repeat=repeat), "1")
    (job,) = jobs()
    assert job.repeats_left == 2


def test_retry_with_pauses(desk, jobs):
    """A Retry is passed on to the job."""
    desk.deliver(desk.subscribe(callbacks.callback, retry=Retry(max=2, interval=[1, 5])), "1")
    (job,) = jobs()
    assert (job.retries_left, job.retry_intervals) == (2, [1, 5])


def test_at_front(desk, jobs):
    """Jobs with `at_front` come before all others, the last one first, as in RQ itself."""
    back, front = (
        desk.subscribe(callbacks.callback, id="b"),
        desk.subscribe(callbacks.callback, id="f", at_front=True),
    )
    batch = desk.batch((back, "1"), (front, "2"), (back, "3"), (front, "4"))
    desk.dispatcher.dispatch(batch)
    assert [job.args[2] for job in jobs()] == [4, 2, 1, 3]


def test_queues(client, make_desk, jobs):
    """A queue given by name has the settings of the dispatcher's; an rq.Queue is used as it is."""
    desk = make_desk(
        Queue("main", connection=client, default_timeout=33, serializer=JSONSerializer)
    )
    other = Queue("other", connection=client)
    desk.deliver(desk.subscribe(callbacks.callback, id="m"), "1")
    desk.deliver(desk.subscribe(callbacks.callback, id="n", queue="named"), "1")
    desk.deliver(desk.subscribe(callbacks.callback, id="o", queue=other), "1")
    assert [job.timeout for job in jobs("main", serializer=JSONSerializer)] == [33]
    assert [job.timeout for job in jobs("named", serializer=JSONSerializer)] == [33]
    assert [job.timeout for job in jobs("other")] == [180]


def test_what_it_is_made_of(client, pgnotifier_redis_url):
    """A dispatcher accepts a queue, a connection or a URL, and refuses anything else."""
    for given in (client, Queue(connection=client), pgnotifier_redis_url):
        dispatcher = RQDispatcher(given)
        assert dispatcher.is_reachable()
        assert repr(dispatcher) == "<RQDispatcher of queue 'default', 0 subscriptions>"
        dispatcher.close()
    with pytest.raises(ArgumentTypeError, match=r"needs an rq.Queue, a redis.Redis or its URL"):
        RQDispatcher(5)
    with pytest.raises(ConfigurationError) as caught:
        RQDispatcher("http://:secret@host")
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_nobody_there():
    """`is_reachable()` returns False if there is no Redis server."""
    assert not RQDispatcher("redis://localhost:1").is_reachable()
