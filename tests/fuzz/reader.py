"""Fuzz the code behind the connection with arbitrary payloads on arbitrary channels.

    python tests/fuzz/reader.py -max_total_time=60

Routing, the buffer and decoding must not raise. Each payload on a subscribed channel is delivered
once and in order, and is always decoded to the same value. Celery's messages restore that value,
and so does decoding the text that `encode_exactly` returns. libFuzzer's options apply:
https://llvm.org/docs/LibFuzzer.html#options.
"""

import contextlib
import math
import struct
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["pgnotifier"]):
    from kombu.utils.json import dumps, loads
    from psycopg.pq import PGnotify

    from pgnotifier import Batch, Dispatcher, Subscription
    from pgnotifier._delivery.deliverer import Deliverer
    from pgnotifier._listener.router import Router
    from pgnotifier._registry.registry import Registry
    from pgnotifier._runtime.clock import Moment
    from pgnotifier.contrib.celery.arguments import wrap_exact, wrap_payload
    from pgnotifier.dispatch import Binding
    from pgnotifier.dispatchers.carrying import pack, unpack, unwrap
    from pgnotifier.errors import PayloadEncodingError
    from pgnotifier.payload import decode, decode_bytes, encode, encode_exactly

CHANNELS = {b"1": b"orders", b"2": "é".encode()}
SEEDS = sorted((Path(__file__).parent / "seeds").iterdir())


class Taker(Dispatcher):
    """Records the notifications that it gets."""

    def __init__(self):
        self.taken = []

    def bind(self, subscription):
        """Accept any subscription."""
        return subscription.fn

    def dispatch(self, batch):
        """Record the notifications of a batch."""
        self.taken += (one.notification for one in batch.one_by_one())


def refuse(exc, _subscription, _notification):
    """Raise the error, because no delivery may fail."""
    raise exc


taker = Taker()
registry = Registry()
for channel in CHANNELS.values():
    subscription = Subscription("fuzz", channel.decode(), print, taker)
    registry = registry.bind(Binding(subscription, print, refuse))


def feed(data):
    """Try one input."""
    arrived = []
    for part in data.split(b"\0"):  # PostgreSQL allows NUL nowhere
        name = CHANNELS.get(part[:1], part[:7])
        arrived.append(PGnotify(relname=name, be_pid=1, extra=part[1:8000]))
    expected = [one.extra for one in arrived if one.relname in CHANNELS.values()]
    for one in route(arrived):
        assert one.raw.encode("utf-8", "surrogateescape") == expected.pop(0)
        shown = show(one.payload)
        assert shown == show(decode(one.raw))
        assert shown == show(decode_bytes(one.raw.encode("utf-8", "surrogateescape")))
        assert shown == show(unpack(pack(one)))
        # Some values have no other text: lone surrogates, nested deeply or beside a Decimal.
        with contextlib.suppress(PayloadEncodingError):
            assert shown == show(decode(encode_exactly(one.payload)))
        with contextlib.suppress(PayloadEncodingError):
            encode(one.payload)
        carried = loads(dumps(wrap_payload(one, "json")))
        assert shown == show(unwrap(carried, decode))
        assert shown == show(loads(dumps(wrap_exact(one.payload))))
    assert not expected


def route(arrived):
    """Return the notifications that are delivered, given those that have arrived."""
    taker.taken.clear()
    deliverer = Deliverer(taker, decode=decode, size=10_000, overflow="block", on_room=print)
    deliverer.start = lambda: None  # no thread: this function does its work
    router = Router(lambda: registry, lambda _: deliverer, set)
    waiting = iter(arrived)
    router.sort(lambda: next(waiting, None), Moment.now(), lambda: False)
    router.hand_on()
    while deliverer.waiting:
        deliveries = []
        taken = deliverer.buffer.take(1000)
        deliverer._decoder.decode_items(taken, deliveries, deliverer.succession)
        taker.dispatch(Batch(deliveries))
    return taker.taken


def show(value):
    """Return a text that is different for different values and types."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("d", value).hex()
    if isinstance(value, dict):
        return f"dict{[(show(key), show(one)) for key, one in value.items()]}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}{[show(one) for one in value]}"
    if isinstance(value, set | frozenset):
        return f"{type(value).__name__}{sorted(map(show, value))}"
    return f"{type(value).__name__} {value!r}"


if __name__ == "__main__":
    # A failing input is printed, so it doesn't have to be written to a file.
    options = ["-exact_artifact_path=/dev/null", f"-seed_inputs={','.join(map(str, SEEDS))}"]
    atheris.Setup([*sys.argv, *options], feed)
    atheris.Fuzz()
