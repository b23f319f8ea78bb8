"""Stamped messages equal those that `apply_async` sends, except for ids and times."""

import base64
import json
import os
import uuid
import warnings
import zlib
from datetime import UTC, datetime
from itertools import islice

import pytest
from brokered import TEXTS, callback, take_messages
from cases import STAMPED
from kombu import serialization

from pgnotifier.contrib.celery import publisher as publisher_module
from pgnotifier.contrib.celery.publisher import carrier_for
from pgnotifier.contrib.celery.recording import publish_recorded
from pgnotifier.contrib.celery.stamping import UnstampableError, new_ids


def normalised(message, ids):
    """Return a message with ids and times replaced, and its body as the worker sees it."""
    headers, properties = message["headers"], message["properties"]
    ids.append((properties["correlation_id"], properties["delivery_tag"]))
    data = base64.b64decode(message["body"])
    if headers.get("compression") == "application/x-gzip":
        data = zlib.decompress(data)
    body = serialization.loads(
        data,
        message["content-type"],
        message["content-encoding"],
        accept=[message["content-type"]],
    )
    text = json.dumps({**message, "body": repr(body)}, sort_keys=True)
    for name in ("eta", "expires"):
        if headers.get(name):
            time = datetime.fromisoformat(headers[name])
            assert abs((time - datetime.now(UTC)).total_seconds()) < 3700
            text = text.replace(headers[name], "TIME")
    if "expiration" in properties:
        assert 0 < int(properties["expiration"]) <= 3_600_000
        text = text.replace(f'"expiration": "{properties["expiration"]}"', '"expiration": "MS"')
    return text.replace(properties["correlation_id"], "ID").replace(
        properties["delivery_tag"], "TAG"
    )


def published(desk, binding, url, texts=TEXTS):
    """Publish a batch; return the broker's messages, and the ids of the tasks."""
    assert not desk.deliver(binding, *texts)
    ids = []
    found = {
        key: [normalised(message, ids) for message in messages]
        for key, messages in take_messages(url).items()
    }
    assert len(set(ids)) == len(ids) == len(texts)
    return found, [task_id for task_id, _ in ids]


@pytest.mark.parametrize("case", STAMPED)
def test_conformance(make_app, make_desk, pressed, monkeypatch, pgnotifier_redis_url, case):
    """From the third on, messages are stamped, and the same as if Celery had made each."""
    make_fn, options, conf = STAMPED[case]
    app = make_app(**conf)
    desk = make_desk(app)
    binding = desk.subscribe(make_fn(app), **options)
    # Twice: if messages hold times, Celery makes the first one of each batch again.
    found, ids = published(desk, binding, pgnotifier_redis_url)
    found, ids = published(desk, binding, pgnotifier_redis_url)
    again = [task_id for task_id in ids if task_id in pressed]
    assert len(again) >= len(TEXTS) - 2
    del pressed[:]
    monkeypatch.setattr(publisher_module, "find_receivers", lambda: "none, but as if")
    expected, _ = published(desk, binding, pgnotifier_redis_url)
    assert not pressed
    assert found == expected
    assert desk.reported == []


def test_arguments_that_change_on_their_way(make_app, make_desk):
    """A stamp is refused if it wouldn't make the same message as Celery."""
    desk = make_desk(make_app())
    target = desk.subscribe(callback).target
    first, second = (desk.deliveries((desk.subscribe(callback), text))[0] for text in "12")
    with desk.app.connection_for_write() as connection:
        producer = desk.app.amqp.Producer(connection, auto_declare=False)
        carrier = carrier_for(producer)
        like, other = (
            publish_recorded(target, target.given(one), producer, next(new_ids()), carrier.watch)
            for one in (first, second)
        )
        stamp = carrier.make_stamp(like, target)
        stamp.check(other)
        other.body = ([*other.body[0][:2], "another", 7], *other.body[1:])
        with pytest.raises(UnstampableError, match="arguments"):
            stamp.check(other)


def test_ids():
    """Task ids are random UUIDs."""
    ids = list(islice(new_ids(), 1000))
    assert len(set(ids)) == 1000
    for one in ids:
        parsed = uuid.UUID(one)
        assert (parsed.version, parsed.variant, str(parsed)) == (4, uuid.RFC_4122, one)


def test_ids_after_a_fork():
    """A forked child doesn't use the ids that its parent has made in advance."""
    ids = new_ids()
    next(ids)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads don't matter
        pid = os.fork()
    if pid == 0:
        os.write(writer, " ".join(islice(ids, 100)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        theirs = pipe.read().split()
    os.waitpid(pid, 0)
    assert len(theirs) == 100
    assert not {*theirs} & {*islice(ids, 100)}
