"""Compare what an outbox captures with what Celery would have pushed to Redis."""

import base64
import bz2
import json
import re
import zlib

import redis
from kombu import serialization
from kombu.utils import json as kombu_json

from pgnotifier.contrib.celery.outbox_capture import Capture

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(\+\d\d:\d\d)?")
COMPRESSIONS = {"application/x-gzip": zlib.decompress, "application/x-bz2": bz2.decompress}


def take_texts(url):
    """Take all messages out of the broker; return their texts, in order for each list.

    The bindings of queues are left there.
    """
    with redis.Redis.from_url(url) as client:
        lists = sorted(client.scan_iter(count=10_000, _type="list"))
        found = [text.decode() for key in lists for text in client.lrange(key, 0, -1)[::-1]]
        client.delete("", *lists)
    return found


def capture(app, publish):
    """Publish with an active outbox, and return the entries."""
    with Capture.of(app).record() as recording:
        publish()
    return recording.drafts


def close(app):
    """Close an app's connections to its result backend."""
    if consumer := getattr(app.backend, "result_consumer", None):
        consumer.stop()
        app.backend.client.connection_pool.disconnect()


def by_destination(texts):
    """Return texts by the key that an entry with them has."""
    found = {}
    for text in texts:
        properties = json.loads(text)["properties"]
        where = properties["delivery_info"]
        key = "\x1f".join([where["exchange"], where["routing_key"], str(properties["priority"])])
        found.setdefault(key, []).append(text)
    return dict(sorted(found.items()))


def by_key(drafts):
    """Return the texts of entries by key."""
    found = {}
    for key, text in drafts:
        found.setdefault(key, []).append(text)
    return dict(sorted(found.items()))


def normalised(text):
    """Return a message's text with the same ids and times in all of them.

    The text stays as it is otherwise. Its body is replaced by what the worker reads.
    """
    message = json.loads(text)
    data = base64.b64decode(message["body"])
    data = COMPRESSIONS.get(message["headers"].get("compression"), bytes)(data)
    kind = message["content-type"]
    value = serialization.loads(data, kind, message["content-encoding"], accept=[kind])
    text = text.replace(message["body"], f"BODY: {value!r}")
    if expiration := message["properties"].get("expiration"):
        assert 0 <= int(expiration) <= 7_200_000
        text = text.replace(f'"expiration": "{expiration}"', '"expiration": "MS"')
    assert kombu_json.dumps(message) == kombu_json.dumps(json.loads(kombu_json.dumps(message)))
    text = TIME.sub("TIME", text)
    seen = {}
    return ID.sub(lambda found: f"ID{seen.setdefault(found[0], len(seen))}", text)
