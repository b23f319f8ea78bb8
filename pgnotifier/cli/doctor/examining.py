"""Run all checks, one after the other, even if one of them fails unexpectedly."""

from collections.abc import Callable

from psycopg.errors import InsufficientPrivilege

from pgnotifier.cli.doctor import activity, arriving, durable_log, server, spelling
from pgnotifier.cli.doctor.asking import NoAnswerError
from pgnotifier.cli.doctor.case import Case
from pgnotifier.cli.doctor.findings import Findings, failed, warning
from pgnotifier.cli.doctor.link import Link
from pgnotifier.cli.doctor.queues import check_queues
from pgnotifier.cli.doctor.reaching import reach
from pgnotifier.errors import in_one_line

Check = Callable[[Case, Link], Findings]

CHECKS: tuple[Check, ...] = (
    server.check_version,
    server.check_primary,
    server.check_encoding,
    arriving.check_pooler,
    arriving.check_right,
    arriving.check_round_trip,
    server.check_settings,
    server.check_clock,
    spelling.check_spelling,
    activity.check_listening,
    activity.check_transactions,
    activity.check_queue,
    durable_log.check_log,
)
"""The checks of the database, in order."""


def examine(case: Case) -> Findings:
    """Yield the findings of all checks, without passwords and control characters."""
    for finding in _examine(case):
        yield finding.cleaned(case.secrets)


def _examine(case: Case) -> Findings:
    link = yield from reach(case)
    if link is not None:
        with link:
            for check in CHECKS:
                yield from _run(check, case, link)
                if link.is_lost:
                    break
    yield from check_queues(case)


def _run(check: Check, case: Case, link: Link) -> Findings:
    name = check.__name__.removeprefix("check_").replace("_", " ")
    try:
        yield from check(case, link)
    except NoAnswerError as exc:
        yield failed(
            name,
            f"The server has stopped answering: {exc}. What else there is in it isn't checked.",
            "See whether it hangs or is overloaded, or whether the network drops packets; or give "
            "it more time with --timeout.",
        )
    except Exception as exc:  # noqa: BLE001 - what an unusual server answers does not stop the others
        if link.is_lost:
            yield failed(
                name,
                f"The server has closed the connection: {in_one_line(exc)}.",
                "Look into its log: it may be restarting, or somebody has ended the session.",
            )
        else:
            yield warning(
                name,
                f"This can't be checked: {in_one_line(exc)}.",
                "Run doctor as a role that may look."
                if isinstance(exc, InsufficientPrivilege)
                else "Check it by hand: what the server answered is unusual.",
            )
