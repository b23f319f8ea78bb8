"""Check that a notification arrives: whether a pooler is in between, and a real round trip."""

import secrets
from time import perf_counter
from typing import Any

import psycopg
from psycopg import sql

from pgnotifier._connection.session import listen_query, notify_query
from pgnotifier._connection.session_settings import setup_query
from pgnotifier._listener.new_connection import ADVICE
from pgnotifier.cli.doctor.asking import NoAnswerError
from pgnotifier.cli.doctor.case import Case
from pgnotifier.cli.doctor.findings import Findings, failed, ok, warning
from pgnotifier.cli.doctor.link import Link, open_link
from pgnotifier.errors import PgNotifierError, in_one_line

PID = "SELECT pg_catalog.pg_backend_pid()"
_WAY_OUT = (
    "Connect to PostgreSQL itself, or to a pool in session mode (PgBouncer: pool_mode=session for "
    "this database). Notifying works through the pooler, listening doesn't."
)


def check_pooler(case: Case, link: Link) -> Findings:
    """Check whether a pooler is in between, and whether its sessions have several clients."""
    ((pid,),) = link.ask(PID)
    # Poolers make up the pid that they report to their clients.
    link.is_pooled = pid != link.connection.info.backend_pid
    if not link.is_pooled:
        yield ok("pooler", "No pooler is in between.")
        return
    mode = _find_mode(case, link, pid)
    if mode is None:
        yield ok("pooler", "A pooler is in between, which gives each client a session of its own.")
        link.ask(setup_query(pid))
        return
    link.shares_sessions = True
    seen = f"A pooler in {mode} mode is in between: a session of the server has several clients"
    yield failed("pooler", f"{seen}, and notifications get lost.", _WAY_OUT)


def _find_mode(case: Case, link: Link, pid: int) -> str | None:
    """Return "transaction" or "statement" if two clients get the same session of the server."""
    try:
        with open_link(case.target.parameters, case.timeout) as second:
            try:
                second.ask("BEGIN")
            except psycopg.Error as exc:  # PgBouncer refuses transactions then
                return "statement" if "statement pooling" in str(exc) else None
            # The second client's transaction keeps a session from the first client, if both share.
            ((taken,),) = second.ask(PID)
            ((left,),) = link.ask(PID) if taken != pid else [(None,)]
            return None if left == pid else "transaction"
    except (PgNotifierError, NoAnswerError):
        return None  # the pool has a single session, which the first client keeps


def check_right(_: Case, link: Link) -> Findings:
    """Check that the role may call `pg_notify`; it needs no right to LISTEN."""
    ((may_notify,),) = link.ask(MAY_NOTIFY)
    if may_notify:
        yield ok("rights", "The role may LISTEN and NOTIFY, as every role may.")
    else:
        yield warning(
            "rights",
            "The role may not call pg_notify(), which somebody has revoked.",
            "GRANT EXECUTE ON FUNCTION pg_catalog.pg_notify(text, text) TO the roles that notify.",
        )


MAY_NOTIFY = """
SELECT pg_catalog.has_function_privilege(
    'pg_catalog.pg_notify(pg_catalog.text, pg_catalog.text)'::pg_catalog.regprocedure, 'EXECUTE')
"""


def check_round_trip(case: Case, link: Link) -> Findings:
    """Have another connection notify this one, on a channel that nobody else knows."""
    if link.is_standby or link.shares_sessions:
        return
    channel = f"pgnotifier_{secrets.token_hex(16)}"
    try:
        link.call(lambda connection: connection.execute(listen_query([channel])))
    except psycopg.Error as exc:
        yield failed(
            "round trip",
            f"The server refused LISTEN: {in_one_line(exc)}.",
            "Connect to the primary server, as a role that may write.",
        )
        return
    try:
        with open_link(case.target.parameters, case.timeout) as second:
            begun = perf_counter()
            second.call(lambda connection: connection.execute(notify_query(channel, "")))
            has_arrived = link.call(lambda one: _wait(one, case.timeout), grace=1.0)
            took = perf_counter() - begun
    except (PgNotifierError, psycopg.Error) as exc:
        yield warning(
            "round trip",
            f"No second connection to notify this one: {in_one_line(exc)}.",
            "Leave room for two connections: a listener needs both to move to a new one.",
        )
        return
    finally:
        if not link.is_lost:
            link.ask(sql.SQL("UNLISTEN {}").format(sql.Identifier(channel)).as_string(None))
    if has_arrived:
        yield ok("round trip", f"A notification to itself arrived in {1000 * took:.1f} ms.")
    else:
        yield failed(
            "round trip",
            "LISTEN was accepted, but a notification that another connection sent didn't arrive "
            f"within {case.timeout:g} s.",
            f"There is {ADVICE}.",
        )


def _wait(connection: psycopg.Connection[Any], seconds: float) -> bool:
    return any(True for _ in connection.notifies(timeout=seconds, stop_after=1))
