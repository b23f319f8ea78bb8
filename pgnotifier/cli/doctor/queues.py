"""Check where subscriptions go: the integrations check their brokers and workers."""

import importlib
from collections.abc import Callable, Sequence
from typing import cast

from pgnotifier._connection.parameters import Parameters
from pgnotifier._runtime.log_records import count
from pgnotifier.cli.doctor.asking import NoAnswerError, within
from pgnotifier.cli.doctor.case import Case
from pgnotifier.cli.doctor.findings import Findings, failed, ok, warning
from pgnotifier.dispatch import Dispatcher
from pgnotifier.errors import PgNotifierError, in_one_line

Check = Callable[[Case, Sequence[Dispatcher]], Findings]

_CHECKED = ("celery", "rq")
"""The integrations with a module `checkup`."""


def check_queues(case: Case) -> Findings:
    """Have each integration check what its dispatchers need."""
    yield from _check_target(case)
    kinds: dict[str, list[Dispatcher]] = {}
    for one in case.dispatchers:
        kinds.setdefault(_find_integration(one), []).append(one)
    for kind, dispatchers in kinds.items():
        if kind in _CHECKED:
            check = importlib.import_module(f"pgnotifier.contrib.{kind}.checkup").check
            yield from _guarded(kind, cast("Check", check)(case, dispatchers))
        elif kind:
            names = ", ".join(sorted({type(one).__name__ for one in dispatchers}))
            yield ok("queues", f"{names}: what it delivers to isn't checked.")


def _guarded(kind: str, findings: Findings) -> Findings:
    """Yield findings; an unusual broker does not stop the others."""
    try:
        yield from findings
    except Exception as exc:  # noqa: BLE001 - clients and transports may raise anything
        yield failed(
            kind,
            f"The broker or the workers can't be checked further: {in_one_line(exc)}.",
            "See whether the broker still answers, and run doctor again.",
        )


def _check_target(case: Case) -> Findings:
    checked = _find_database(case, case.target.parameters)
    for notifier in () if "--dsn" in case.target.named_by else case.target.notifiers:
        used = _find_database(case, notifier.parameters)
        if used != checked and None not in (used, checked):
            yield warning(
                "subscriptions",
                f"A notifier uses another database, which isn't checked: {used}.",
                "Check it with --dsn, or with Django's settings and --database.",
            )
    if not case.target.notifiers:
        return
    subscriptions = sum(
        len(callbacks)
        for notifier in case.target.notifiers
        for callbacks in notifier.get_subscriptions().values()
    )
    channels = len({*case.find_channels(durable=False), *case.find_channels(durable=True)})
    if subscriptions:
        seen = f"{count(subscriptions, 'subscription')} to {count(channels, 'channel')}."
        yield ok("subscriptions", seen)
    else:
        yield warning(
            "subscriptions",
            f"{case.target.named_by or 'The notifier'} has no subscription.",
            "Import the module that subscribes, as the listener has to do as well.",
        )


def _find_database(case: Case, parameters: Parameters) -> str | None:
    """Return the database that parameters lead to; None if that isn't known."""
    try:
        return repr(within(case.timeout, parameters.resolve))
    except (PgNotifierError, NoAnswerError):
        return None


def _find_integration(dispatcher: Dispatcher) -> str:
    """Return the name of the integration that a dispatcher belongs to; "" for one in-process."""
    if type(dispatcher).starts_listener:
        return ""
    for kind in type(dispatcher).__mro__:
        package = kind.__module__.split(".")
        if package[:2] == ["pgnotifier", "contrib"]:
            return package[2]
        if package[0] == "pgnotifier":
            return ""
    return "other"
