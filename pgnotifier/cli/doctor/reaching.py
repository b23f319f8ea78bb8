"""Reach the server: connect as the application would, and say why that fails."""

import os
import re
from collections.abc import Generator, Mapping

from pgnotifier.cli.doctor.asking import NoAnswerError
from pgnotifier.cli.doctor.case import Case
from pgnotifier.cli.doctor.findings import Finding, failed, ok
from pgnotifier.cli.doctor.link import Link, open_link
from pgnotifier.errors import PgNotifierError, in_one_line

CHECK = "server"

# Advice by patterns. The first pattern that matches the reason counts.
_WAYS_OUT: Mapping[str, str] = {
    r"could not translate host name|Name or service not known|No address associated|"
    r"getaddrinfo|failed to resolve": "Correct the host name, or the name server of this machine.",
    r"server does not support SSL": "Set up TLS on the server, or connect with sslmode=prefer.",
    r"certificate verify failed|root certificate file|does not match host name|certificate": (
        "Give the certificate of the server's CA as sslrootcert, or correct the host name; see "
        "https://www.postgresql.org/docs/current/libpq-ssl.html."
    ),
    r"no pg_hba\.conf entry": (
        "Have the server's pg_hba.conf allow this user, database and address; if it says "
        '"no encryption", connect with sslmode=require.'
    ),
    r"no password supplied": (
        "Give a password: in the connection string, as PGPASSWORD or in ~/.pgpass, which nobody "
        "else may be able to read."
    ),
    r"(?:password|SASL|SCRAM) authentication failed|wrong password|authentication failed": (
        "Correct the user or the password; ~/.pgpass counts only if nobody else can read it."
    ),
    r"role .* does not exist": "Correct the user, or create it with CREATE ROLE … LOGIN.",
    r"database .* does not exist|no such database": (
        "Correct the name of the database, or create it."
    ),
    r"permission denied for database": (
        "Let the role connect: GRANT CONNECT ON DATABASE … TO the role."
    ),
    r"is not permitted to log in": "Let the role log in: ALTER ROLE … LOGIN.",
    r"too many (?:connections|clients)|remaining connection slots": (
        "Close connections that nobody uses, or raise max_connections."
    ),
    r"(?:starting up|shutting down|in recovery mode)": (
        "Wait until the server has started, and look into its log."
    ),
    r"session is not read-write|session is read-only|hot standby": (
        "Connect to the primary, or name it among the hosts: target_session_attrs=read-write finds "
        "it."
    ),
    r"Connection refused": (
        "Start the server, or correct the host and the port; listen_addresses has to include "
        "that address."
    ),
    r"No such file or directory": (
        "Start the server on this machine; or give its host, or the directory of its socket, as "
        "host."
    ),
    r"definition of service|service file": (
        "Correct the name of the service, or PGSERVICEFILE; the file is ~/.pg_service.conf."
    ),
    r"timeout|timed out|no route|unreachable|no answer": (
        "Check that the host is up, and that no firewall or security group drops the packets."
    ),
    r"server closed the connection|Connection reset": (
        "Look into the server's log: it, or a pooler or proxy in between, has closed the "
        "connection."
    ),
    r"db_conf": "Correct the function that db_conf is, and run it by itself.",
}
_OTHERWISE = "Correct the connection string; the server's log may say more."


def reach(case: Case) -> Generator[Finding, None, Link | None]:
    """Connect; return the connection, or None if there is none."""
    parameters = case.target.parameters
    case.secrets.append(os.environ.get("PGPASSWORD", ""))
    begun = case.now()
    try:
        link = open_link(parameters, case.timeout)
    except NoAnswerError as exc:
        seen = f"No connection to {parameters!r}: {exc}."
        yield failed(CHECK, seen, _advise(str(exc)))
        return None
    except PgNotifierError as exc:
        reason = in_one_line(exc).rstrip(".")
        yield failed(CHECK, f"{reason[0].upper()}{reason[1:]}.", _advise(reason))
        return None
    info = link.connection.info
    shown = {info.user, info.dbname, info.host}
    case.secrets[:] = [one for one in (*case.secrets, info.password) if one not in {*shown, ""}]
    where = f"{info.host}:{info.port}" if not info.host.startswith("/") else f"socket {info.host}"
    encrypted = ", with TLS" if info.pgconn.ssl_in_use else ""
    took = max(0.0, 1000 * (case.now() - begun))
    yield ok(
        CHECK,
        f"Connected to database {info.dbname!r} at {where} as {info.user!r}{encrypted}, in "
        f"{took:.0f} ms.",
    )
    return link


def _advise(reason: str) -> str:
    for pattern, way_out in _WAYS_OUT.items():
        if re.search(pattern, reason, re.IGNORECASE):
            return way_out
    return _OTHERWISE
