"""Stamped jobs: the content of Redis is the same as if RQ had enqueued each job."""

import logging
import pickle
import pickletools
import zlib

import callbacks
import pytest
import rq
from rq import Callback, Queue, Retry
from rq.job import Job
from rq.serializers import JSONSerializer

from pgnotifier.contrib.rq import stamping
from pgnotifier.contrib.rq.jobs import call
from pgnotifier.contrib.rq.targets import make_stem
from pgnotifier.errors import DispatcherMismatchError

TEXTS = [
    '{"id": 1, "item": "tea", "amount": 2.5}',
    "{1: (2, b'x')}",
    "plain words",
    "",
    '{"long": "' + "x" * 3000 + '"}',
    "(1, {2}, ..., None)",
    "1",
]
OTHER = Callback(callbacks.other, timeout=7)
CASES = {
    "plain": {},
    "named": {"queue": "images"},
    "at the front": {"at_front": True},
    "timeouts": {"job_timeout": "2m", "result_ttl": 0, "ttl": 600, "failure_ttl": 30},
    "for ever": {"job_timeout": -1, "result_ttl": -1},
    "described": {"description": "pgnotifier-0 for {you} \x00 é", "meta": {"a": [1, (2,)]}},
    "again": {"retry": Retry(max=3, interval=[1, 2, 3])},
    "called back": {"on_success": OTHER, "on_failure": OTHER, "on_stopped": OTHER},
    "a queue like an id": {"queue": "pgnotifier-0"},
}
if hasattr(rq, "Repeat"):  # from RQ 2.2 on
    CASES["repeated"] = {"repeat": rq.Repeat(times=3, interval=5)}


@pytest.mark.parametrize("case", CASES)
def test_conformance(desk, client, take_all, case):
    """Jobs, queues and their registration are the same as those that `Queue.enqueue` makes."""
    options = CASES[case]
    binding = desk.subscribe(callbacks.callback, id="resize", **options)
    assert not desk.deliver(binding, *TEXTS)
    ours = take_all()
    settings = {"description": "resize", **options}
    queue = Queue(settings.pop("queue", "default"), connection=client)
    for delivery in desk.batch(*((binding, text) for text in TEXTS)):
        arrived = delivery.notification
        queue.enqueue("callbacks.callback", args=("resize", "ch", arrived.payload, 7), **settings)
    assert ours == take_all()
    assert len(ours) == len(TEXTS) + 2
    assert desk.reported == []


def test_the_path_is_shown(desk):
    """`details()` shows the path of a subscription's jobs, once the first one has been made."""
    binding = desk.subscribe(callbacks.callback, id=("orders", 1), queue="images")
    row = {
        "id": "orders.1",
        "channel": "ch",
        "job": "callbacks.callback",
        "queue": "images",
        "reason": None,
    }
    assert desk.dispatcher.details() == {"subscriptions": [{**row, "path": None}]}
    desk.deliver(binding, "1")
    assert desk.dispatcher.details() == {"subscriptions": [{**row, "path": "stamped"}]}
    desk.dispatcher.unbind(binding.subscription)
    assert desk.dispatcher.details() == {"subscriptions": []}


class Stamped(Job):
    """A job class with a field of its own, which differs from job to job."""

    def to_dict(self, include_meta=True, include_result=True):
        return {**super().to_dict(include_meta, include_result), "mirror": self.id[::-1]}


def test_a_job_of_another_class(client, make_desk, take_all, caplog):
    """If the jobs of a class can't be stamped, RQ makes each one, and the log says why."""
    caplog.set_level(logging.DEBUG, "pgnotifier.rq")
    queue = Queue(connection=client, job_class=Stamped)
    desk = make_desk(queue)
    binding = desk.subscribe(callbacks.callback)
    desk.deliver(binding, "1", "2")
    assert desk.dispatcher.details()["subscriptions"][0]["path"] == "enqueue_many"
    assert "jobs of 'a' are made by enqueue_many: the commands that RQ makes differ" in caplog.text
    assert [job.args[2] for job in queue.jobs] == [1, 2]
    mirrors = [client.hget(f"rq:job:{job.id}", "mirror").decode() for job in queue.jobs]
    assert mirrors == [job.id[::-1] for job in queue.jobs]


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("resize", "resize"),
        ("Re_size-9", "Re_size-9"),
        ("orders.1", "orders-1-"),
        ("größe", "gr-e-"),
        ("\ud800", ""),
        ("x" * 61, "x" * 60 + "-"),
        ("-a", "a-"),
    ],
)
def test_ids_of_jobs(name, stem):
    """If a job id can't hold a subscription's id as it is, a hash of eight digits is added."""
    made = make_stem(name)
    assert made.startswith(stem)
    assert len(made) == len(stem) + (0 if made == name else 8)
    assert make_stem(f"{name}.") != made != make_stem(f"{name}_")
    Job.create("f", id=f"{made}-1", connection=object())  # checks the id


def test_job_ids_differ(desk, jobs):
    """Jobs of one subscription have different ids, which begin with the same stem."""
    desk.deliver(desk.subscribe(callbacks.callback, id="résumé"), "1", "1")
    first, second = (job.id for job in jobs())
    assert first != second
    assert first[:-16] == second[:-16] == f"{make_stem('résumé')}-"


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 7999])
def test_deflate(size):
    """Long data is compressed, short data isn't; both are valid streams."""
    data = bytes(n % 251 for n in range(size))
    packed = stamping.deflate(data)
    assert zlib.decompress(packed) == data
    assert (data in packed) == (size <= 1024)


@pytest.mark.parametrize("text", [*TEXTS, "b'\\xff'", '{"__pgnotifier_raw__": "1"}', "1e999"])
@pytest.mark.parametrize("key", ["resize", ("orders", 1)])
def test_another_serializer(client, make_desk, jobs, text, key):
    """With a serializer that isn't pickle, the callback gets the same values and types."""
    desk = make_desk(Queue(connection=client, serializer=JSONSerializer))
    binding = desk.subscribe(callbacks.callback, id=key)
    batch = desk.batch((binding, text))
    expected = (key, "ch", batch[0].notification.payload, 7)
    desk.dispatcher.dispatch(batch)
    (job,) = jobs(serializer=JSONSerializer)
    assert job.func is call
    assert job.description == desk.dispatcher.details()["subscriptions"][0]["id"]
    del callbacks.called[:]
    job.perform()
    (got,) = callbacks.called
    assert repr(got) == repr(expected)


def test_no_objects_in_pickles(desk, client, jobs):
    """A pickled job holds a name and plain values: nothing that unpickling would call."""
    desk.deliver(desk.subscribe(callbacks.callback), *TEXTS)
    for job in jobs():
        names = {op.name for op, _, _ in pickletools.genops(job.data)}
        calls = names & {"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"}
        assert not calls, pickle.loads(job.data)


def test_an_id_that_cannot_travel(client, make_desk, desk):
    """An id that the serializer can't carry is refused when subscribing."""
    with pytest.raises(DispatcherMismatchError, match="use a str or a tuple"):
        desk.subscribe(callbacks.callback, id=lambda: 1)
    queue = Queue(connection=client, serializer=JSONSerializer)
    with pytest.raises(DispatcherMismatchError, match="use a str or a tuple, or a queue with RQ's"):
        make_desk(queue).subscribe(callbacks.callback, id=object())
