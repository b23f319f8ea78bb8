"""Check a Redis that is used as a broker: what it does when it is full, and its clock."""

from typing import Any

from pgnotifier.cli.doctor.asking import within
from pgnotifier.cli.doctor.case import Case
from pgnotifier.cli.doctor.findings import Findings, failed, ok
from pgnotifier.cli.doctor.server import compare_clocks
from pgnotifier.errors import in_one_line

WAYS_OUT = (
    (
        (
            "WRONGPASS",
            "NOAUTH",
            "username-password",
            "password",
            "ACCESS_REFUSED",
            "authentication",
        ),
        "Correct the user and the password in the URL, with special characters percent-encoded.",
    ),
    (
        ("Name or service", "name resolution", "getaddrinfo", "No address associated"),
        "Correct the host in the URL, or the name server of this machine.",
    ),
    (("refused",), "Start the broker, or correct the host and the port in its URL."),
    (
        ("no answer", "timed out", "Timeout", "unreachable", "No route"),
        "Check that the broker runs, and that no firewall drops the packets.",
    ),
    (("SSL", "certificate"), "Correct the TLS settings: rediss:// or amqps://, and its CA."),
    (
        ("NOPERM", "not allowed", "vhost"),
        "Let the user in: correct its rights, or the virtual host or database in the URL.",
    ),
)
OTHERWISE = "Correct the broker's URL; the broker's own log may say more."


def advise(reason: str) -> str:
    """Return what to do about a broker that can't be reached."""
    for words, way_out in WAYS_OUT:
        if any(word.lower() in reason.lower() for word in words):
            return way_out
    return OTHERWISE


def check_redis(case: Case, client: Any, name: str = "Redis") -> Findings:
    """Check a Redis that answers.

    Args:
        case: What is examined.
        client: A client of redis-py.
        name: What to call the server.
    """
    begin = name[:1].upper() + name[1:]
    try:
        memory = within(case.timeout, lambda: client.info("memory"))
    except Exception as exc:  # noqa: BLE001 - a managed Redis may not allow it
        yield ok("memory", f"{begin} doesn't show its settings: {in_one_line(exc)}.")
    else:
        policy, limit = memory.get("maxmemory_policy"), memory.get("maxmemory")
        if limit and str(policy).startswith("allkeys"):
            yield failed(
                "memory",
                f"When {name} is full, it evicts any key, and so whole queues: its "
                f"maxmemory-policy is {policy}.",
                "Set maxmemory-policy noeviction; a cache belongs into a Redis of its own.",
            )
        else:
            yield ok("memory", f"{begin} evicts no queue when it is full.")
    before = case.now()
    try:
        seconds, micros = within(case.timeout, client.time)
    except Exception as exc:  # noqa: BLE001 - as above
        yield ok("clock", f"{begin} doesn't show its clock: {in_one_line(exc)}.")
    else:
        yield compare_clocks(name, seconds + micros / 1e6, before, case.now())
