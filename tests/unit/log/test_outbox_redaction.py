"""What a message in an outbox calls, and what of it is shown."""

import base64
import json
import pickle
import zlib

import pytest
from redis import Redis
from rq import Queue

from pgnotifier._log.outbox_redaction import HIDDEN, check_redact, describe, mentions
from pgnotifier.contrib.rq.outbox_jobs import draft, make
from pgnotifier.errors import ArgumentTypeError

SECRET = "jane@example.com"
NEXT = {"task": "shop.store", "args": [SECRET], "kwargs": {}}


ADD = {
    "task": "shop.add",
    "args": [SECRET],
    "kwargs": {"email": SECRET, "copies": 2},
    "options": {"queue": "low", "headers": {"x": SECRET}, "link_error": [NEXT]},
    "subtask_type": None,
}
GROUP = {
    "task": "celery.group",
    "args": [],
    "kwargs": {"tasks": [ADD, NEXT]},
    "options": {},
    "subtask_type": "group",
}
CHORD = {
    "task": "celery.chord",
    "args": [],
    "kwargs": {"header": GROUP, "body": NEXT, "interval": 1},
    "options": {},
    "subtask_type": "chord",
}
SERIALIZERS = {
    "json": "rq.serializers.JSONSerializer",
    "pickle": "rq.serializers.DefaultSerializer",
}
"""Those of RQ, by paths, as older versions have no names for them."""


def message(*args, body=None, embed=None, compression=None, kind="application/json", **kwargs):
    """Return a message as Celery makes it, with personal arguments."""
    embed = embed or {"chain": [NEXT], "callbacks": None, "chord": NEXT}
    content = json.dumps([args, kwargs, embed])
    headers = {
        "lang": "py",
        "task": "shop.invoice",
        "id": "a",
        "shadow": SECRET,
        "argsrepr": repr(args),
        "kwargsrepr": repr(kwargs),
        "stamps": {"customer": SECRET},
        "x-customer": SECRET,
        "retries": 0,
    }
    if compression:
        headers["compression"] = compression
    return json.dumps(
        {
            "body": base64.b64encode(body or content.encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": kind,
            "headers": headers,
            "properties": {"correlation_id": "a", "body_encoding": "base64", "x": SECRET},
        }
    )


def test_values_are_hidden():
    """By default the values of arguments are hidden, and whatever may contain some."""
    shown = describe(message(SECRET, 7, email=SECRET, deep={"email": SECRET}), None)
    assert SECRET not in json.dumps(shown)
    assert shown["args"] == [HIDDEN, HIDDEN]
    assert shown["kwargs"] == {"email": HIDDEN, "deep": HIDDEN}
    assert shown["then"] == ["shop.store", "shop.store"]
    assert shown["headers"] == {"lang": "py", "task": "shop.invoice", "id": "a", "retries": 0}
    assert shown["properties"] == {"correlation_id": "a"}


def test_names():
    """The values of these names are hidden at any depth, and positional ones, too."""
    made = message(SECRET, email=SECRET, copies=2, to=[{"email": SECRET, "at": 1}])
    shown = describe(made, ["email"])
    assert SECRET not in json.dumps(shown)
    assert shown["args"] == [HIDDEN]
    assert shown["kwargs"] == {"email": HIDDEN, "copies": 2, "to": [{"email": HIDDEN, "at": 1}]}


def test_a_function():
    """A function says what to show. If it fails, everything is hidden."""

    def redact(task, args, kwargs):
        assert task == "shop.invoice"
        return args[1:], {"copies": kwargs["copies"]}

    made = message(SECRET, 7, copies=2, email=SECRET)
    shown = describe(made, redact)
    assert (shown["args"], shown["kwargs"]) == ([7], {"copies": 2})
    assert SECRET not in json.dumps(shown)
    shown = describe(message(SECRET), redact)
    assert (shown["args"], shown["kwargs"]) == ([HIDDEN], {})


def test_everything():
    """An empty list hides nothing."""
    shown = describe(message(SECRET, copies=2), [])
    assert (shown["args"], shown["kwargs"]) == ([SECRET], {"copies": 2})
    assert shown["headers"]["stamps"] == {"customer": SECRET}
    assert shown["properties"]["x"] == SECRET


def copies(task, args, kwargs):
    """Show what isn't personal."""
    return [f"{len(args)} of {task}"], {"copies": kwargs.get("copies")}


EMBED = {"chain": [CHORD, ADD], "callbacks": [NEXT], "errbacks": None}


def test_what_follows():
    """Tasks that follow are shown by name, in their order; with `redact`, with their arguments."""
    made = message(embed=EMBED)
    names = ["shop.store", "shop.add", "celery.chord"]
    assert describe(made, None)["then"] == names
    assert SECRET not in json.dumps(describe(made, None))
    store = {"task": "shop.store", "args": [SECRET], "kwargs": {}, "options": {}}
    add = {
        "task": "shop.add",
        "args": [SECRET],
        "kwargs": {"email": SECRET, "copies": 2},
        "options": {"queue": "low", "headers": {"x": SECRET}},
        "then": [{"as": "link_error", **store}],
    }
    group = {"task": "celery.group", "kwargs": {}, "tasks": [add, store], "options": {}}
    chord = {"task": "celery.chord", "kwargs": {"interval": 1}, "header": [group], "body": [store]}
    assert describe(made, [])["then"] == [
        {"as": "link", **store},
        {"as": "chain", **add},
        {"as": "chain", **chord, "options": {}},
    ]


@pytest.mark.parametrize("redact", [["email"], copies])
def test_what_follows_is_hidden_in_the_same_way(redact):
    """Names and functions hide arguments of what follows, and of what is in a canvas."""
    shown = describe(message(embed=EMBED), redact)
    assert SECRET not in json.dumps(shown)
    _, add, chord = shown["then"]
    assert add["kwargs"]["copies"] == 2
    assert add["options"] == {"queue": "low"}
    assert chord["header"][0]["tasks"][0] == {name: add[name] for name in add if name != "as"}
    assert "kwargs" not in chord


def test_signatures_among_arguments():
    """Positional arguments of a signature are hidden, where they are in an argument."""
    for task, kwargs in {
        "celery.map": {"task": ADD, "it": [SECRET]},
        "shop.later": {"what": [ADD]},
    }.items():
        asked = json.dumps({"task": task, "args": [], "kwargs": kwargs})
        assert SECRET not in json.dumps(describe(asked, ["email"]))
        assert '"copies": 2' in json.dumps(describe(asked, ["email"]))


def test_deep_canvases():
    """Of what is nested too deep, the names are shown."""
    deep = NEXT
    for _ in range(150):
        deep = {"task": "shop.deep", "args": [], "options": {"link": [deep]}}
    made = message(embed={"chain": [deep]})
    assert describe(made, [])["then"] == ["shop.deep"]
    assert mentions(made, SECRET)


def job(args=(), kwargs=(), serializer="json", **options):
    """Return a job of RQ as `RQOutbox` keeps it."""
    queue = Queue("low", connection=Redis(port=1), serializer=SERIALIZERS[serializer])
    kwargs = dict(kwargs)
    made = queue.create_job("shop.invoice", args=args, kwargs=kwargs, job_id="a", **options)
    return draft(make(made, queue))[1]


def test_jobs():
    """Arguments of RQ's jobs are shown and hidden in the same way, if they are JSON."""
    made = job([SECRET, 7], {"email": SECRET, "copies": 2}, timeout=60)
    shown = describe(made, None)
    assert SECRET not in json.dumps(shown)
    assert shown["args"] == [HIDDEN, HIDDEN]
    assert shown["kwargs"] == {"email": HIDDEN, "copies": HIDDEN}
    assert (shown["function"], shown["queue"], shown["job"]["timeout"]) == (
        "shop.invoice",
        "low",
        60,
    )
    shown = describe(made, ["email"])
    assert SECRET not in json.dumps(shown)
    assert shown["kwargs"] == {"email": HIDDEN, "copies": 2}
    assert describe(made, copies)["args"] == ["2 of shop.invoice"]
    shown = describe(made, [])
    assert (shown["args"], shown["kwargs"]) == ([SECRET, 7], {"email": SECRET, "copies": 2})
    assert SECRET in shown["job"]["description"]
    assert "data" not in shown["binary"]


class Trap:
    """What fails when it is unpickled."""

    def __reduce__(self):
        return exec, ("raise SystemExit",)


@pytest.mark.parametrize("redact", [None, ["email"], [], copies])
def test_pickled_jobs(redact):
    """Pickled arguments aren't read, and it is said that they are pickled."""
    shown = describe(job([Trap(), SECRET], serializer="pickle", description="a job"), redact)
    assert (shown["args"], shown["kwargs"]) == ("pickled", "pickled")
    assert SECRET not in json.dumps(shown)


@pytest.mark.parametrize("data", ["", "?", base64.b64encode(zlib.compress(b"[1]")).decode(), 7])
def test_jobs_that_can_not_be_read(data):
    """Whatever somebody has put in, no page fails."""
    made = json.dumps({"function": "a", "job": {}, "binary": {"data": data, "meta": data}})
    shown = describe(made, None)
    assert (shown["args"], shown["kwargs"]) == (None, None)
    assert not mentions(made, "a text")


@pytest.mark.parametrize("redact", [None, ["email"], lambda *given: given[1:]])
@pytest.mark.parametrize(
    "payload",
    [
        message(SECRET, kind="application/x-python-serialize"),
        message(SECRET, compression="application/x-gzip"),
        message(body=pickle.dumps(SECRET)),
        message(body=json.dumps(SECRET).encode()),
        message(body=b"[[1], 2]"),
        json.dumps({"body": [SECRET], "content-type": "application/json", "headers": SECRET}),
        json.dumps([SECRET]),
        json.dumps({"data": SECRET, "args": SECRET, "description": SECRET}),
        f"{SECRET}[",
        "[" * 100_000,
        "",
    ],
)
def test_what_can_not_be_read(redact, payload):
    """Of arguments that aren't JSON, or of whatever else there is, nothing is shown."""
    shown = describe(payload, redact)
    assert SECRET not in json.dumps(shown)
    expected = "pickled" if "python-serialize" in payload else None
    assert (shown["args"], shown["kwargs"]) == (expected, expected)


def test_what_sql_has_asked_for():
    """What SQL has asked for is hidden in the same way."""
    request = {
        "task": "shop.invoice",
        "id": "a",
        "args": [SECRET],
        "kwargs": {"copies": 2, "email": SECRET},
        "queue": "low",
        "headers": {"x": SECRET},
        "meta": {"x": SECRET},
    }
    asked = json.dumps(request)
    assert describe(asked, None) == {
        "args": [HIDDEN],
        "kwargs": {"copies": HIDDEN, "email": HIDDEN},
        "then": [],
        "task": "shop.invoice",
        "id": "a",
        "queue": "low",
    }
    assert describe(asked, ["email"])["kwargs"] == {"copies": 2, "email": HIDDEN}
    assert describe(asked, [])["headers"] == {"x": SECRET}
    job = describe('{"function": "shop.invoice", "args": [], "kwargs": {}}', None)
    assert job["function"] == "shop.invoice"


@pytest.mark.parametrize("redact", [None, ["email"], [], lambda *given: given[1:]])
def test_deep_arguments(redact):
    """Arguments with too many levels aren't shown, and are found in a text all the same."""
    deep = SECRET
    for _ in range(900):
        deep = [deep]
    payload = json.dumps({"task": "a", "args": [deep], "kwargs": {}, "meta": deep})
    shown = describe(payload, redact)
    assert (shown["args"], shown["kwargs"]) == (None, None)
    assert SECRET not in json.dumps(shown)
    assert mentions(payload, f"ValueError: {SECRET}")


@pytest.mark.parametrize("redact", ["email", 7, [7]])
def test_what_can_not_hide(redact):
    """Names are a list, because a str would be one of letters."""
    with pytest.raises(ArgumentTypeError, match="redact"):
        check_redact(redact)


def test_what_can_hide():
    """A function, names, or nothing."""
    assert check_redact(None) is None
    assert check_redact(len) is len
    assert check_redact(["email"]) == ("email",)


@pytest.mark.parametrize(
    ("text", "is_mentioned"),
    [
        (f"ValueError: no customer {SECRET}", True),
        ("KeyError: 1234567", True),
        ("it's a \\n b", True),
        ("ValueError: 7 isn't one of the copies", False),
        ("TypeError: unexpected keyword argument 'deep'", False),
        ("", False),
    ],
)
def test_texts_with_arguments(text, is_mentioned):
    """Arguments are found in a text, unless they are too short to be recognised."""
    payload = message(7, SECRET, "a", number=1234567, deep=[{"x": SECRET}], note="a \n b")
    assert mentions(payload, text) is is_mentioned
    assert not mentions("nonsense", text)


@pytest.mark.parametrize("serializer", ["json", "pickle"])
def test_texts_with_arguments_of_jobs(serializer):
    """They are found for jobs of RQ, too, with what RQ makes of them, without unpickling."""
    options = {"serializer": serializer, "meta": {"for": "Jürgen"}}
    made = job([SECRET, [1234567]], {"note": "a \n b"}, **options)
    trap = [Trap()] if serializer == "pickle" else []
    for text in (
        f"ValueError: {SECRET}",
        "KeyError: 1234567",
        r"it's a \n b",
        "KeyError: 'Jürgen'",
        r"KeyError: J\u00fcrgen",
    ):
        assert mentions(made, text)
        assert mentions(job([*trap, SECRET, 1234567, "a \n b"], **options), text)
    long = job(["x" * 200], serializer=serializer)  # which RQ shortens for the description
    assert mentions(long, f"<Job a: {json.loads(long)['job']['description']}>")
    assert not mentions(made, "shop.invoice: no such function in queue low")
    assert not mentions(job([Trap()], serializer="pickle"), "no exec in builtins")
    huge = job([10**5000], serializer="pickle", description="a number")
    assert not mentions(huge, "a text")


def test_texts_with_arguments_of_what_follows():
    """They are found wherever they are in a canvas."""
    for embed in ({"chain": [CHORD]}, {"callbacks": [NEXT]}, {"errbacks": [GROUP]}):
        assert mentions(message(embed=embed), f"ValueError: {SECRET}")
        assert not mentions(message(embed=embed), "shop.store, shop.add, celery.chord")
