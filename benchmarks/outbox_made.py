"""Messages as Celery makes them, to fill an outbox with."""

import json

from pgnotifier.contrib.celery.outbox_messages import channel_of

CHANNEL = channel_of("default")
ARGUMENTS = ({"order": 1234, "item": "tea", "amount": 3},)
TASK = "bench.work"
FILL = "fill"
"""The name of what fills the table of django-celery-outbox."""


def make_message(task_id: str, tag: str) -> str:
    """Return a message as Celery makes it for Redis."""
    headers: dict[str, object] = {
        "lang": "py",
        "task": TASK,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": task_id,
        "parent_id": None,
        "argsrepr": repr(ARGUMENTS),
        "kwargsrepr": "{}",
        "origin": "gen7@shop",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    properties = {
        "correlation_id": task_id,
        "reply_to": "1c5dd2d5-7d2f-3d0e-8f60-7e5a4c2a9b7e",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "celery"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": tag,
    }
    body = (
        "W1t7Im9yZGVyIjogMTIzNCwgIml0ZW0iOiAidGVhIiwgImFtb3VudCI6IDN9XSwge30sIHsiY2FsbGJhY2tzIjog"
        "bnVsbCwgImVycmJhY2tzIjogbnVsbCwgImNoYWluIjogbnVsbCwgImNob3JkIjogbnVsbH1d"
    )
    whole = {"body": body, "content-encoding": "utf-8", "content-type": "application/json"}
    return json.dumps({**whole, "headers": headers, "properties": properties})
