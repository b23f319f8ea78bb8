"""Check the server: its version, its role, its encoding, its settings and its clock."""

from pgnotifier._connection.encoding import find_encoding
from pgnotifier._connection.session import STANDBY, encoding_of
from pgnotifier._connection.session_settings import HURTFUL
from pgnotifier._runtime.log_records import duration
from pgnotifier.cli.doctor.case import Case
from pgnotifier.cli.doctor.findings import Finding, Findings, failed, ok, warning
from pgnotifier.cli.doctor.link import Link

OLDEST, NEWEST = 14, 18
"""The versions of PostgreSQL that pgnotifier is tested with."""
SKEW, HARMFUL_SKEW = 2.0, 30.0
"""Seconds from which on clocks that differ are a warning, or a failure."""
_KEEPALIVES = 300.0
"""Seconds after which the server should have noticed that a client is gone."""

IN_RECOVERY = "SELECT pg_catalog.pg_is_in_recovery()"
CLOCK = "SELECT pg_catalog.extract('epoch', pg_catalog.clock_timestamp())::pg_catalog.float8"
CONFIGURED = """
SELECT DISTINCT pg_catalog.split_part(given, '=', 1)
FROM pg_catalog.pg_db_role_setting AS s CROSS JOIN pg_catalog.unnest(s.setconfig) AS given
WHERE (s.setdatabase OPERATOR(pg_catalog.=) 0 OR s.setdatabase OPERATOR(pg_catalog.=) (
    SELECT oid FROM pg_catalog.pg_database
    WHERE datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
)) AND (s.setrole OPERATOR(pg_catalog.=) 0 OR s.setrole OPERATOR(pg_catalog.=) (
    SELECT oid FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) CURRENT_USER
))
"""
EFFECTIVE = """
SELECT name, setting FROM pg_catalog.pg_settings
WHERE name OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.text[])
"""
KEEPALIVES = """
SELECT pg_catalog.inet_client_addr() IS NOT NULL,
    pg_catalog.current_setting('tcp_keepalives_idle')::pg_catalog.float8,
    pg_catalog.current_setting('tcp_keepalives_interval')::pg_catalog.float8,
    pg_catalog.current_setting('tcp_keepalives_count')::pg_catalog.float8
"""


def check_version(_: Case, link: Link) -> Findings:
    """Check that the version of the server is one that pgnotifier is tested with."""
    number = link.connection.info.server_version // 10000
    seen = f"The server is PostgreSQL {number}."
    if number < OLDEST:
        yield failed("version", seen, f"Upgrade it: pgnotifier needs PostgreSQL {OLDEST} or newer.")
    elif number > NEWEST:
        yield warning(
            "version", seen, f"Upgrade pgnotifier, which is tested with {OLDEST} to {NEWEST}."
        )
    else:
        yield ok("version", seen)


def check_primary(_: Case, link: Link) -> Findings:
    """Check that the server isn't a standby server, which refuses LISTEN."""
    ((link.is_standby,),) = link.ask(IN_RECOVERY)
    if link.is_standby:
        yield failed("primary", f"The server can't be listened to: {STANDBY}.", _PRIMARY)
    else:
        yield ok("primary", "The server is a primary: it takes LISTEN and NOTIFY.")


_PRIMARY = "Correct the host, or the address that the host's name leads to."


def check_encoding(case: Case, link: Link) -> Findings:
    """Check that the database's encoding has the characters of the channels."""
    encoding = encoding_of(link.connection)
    found = find_encoding(encoding.name)
    for channel in [*case.find_channels(durable=False), *case.find_channels(durable=True)]:
        try:
            found.encode(channel)
        except UnicodeEncodeError as exc:
            yield failed(
                "encoding",
                f"The database's encoding, {encoding.name}, lacks {channel[exc.start]!r} of the "
                f"channel {channel!r}.",
                "Rename the channel, or move to a database with the encoding UTF8.",
            )
            return
    if encoding.name == "SQL_ASCII":
        yield warning(
            "encoding",
            "The database's encoding is SQL_ASCII: what its bytes mean isn't defined, and they "
            "are read as UTF-8.",
            "Have everybody who notifies send UTF-8, or move to a database with the encoding UTF8.",
        )
    elif encoding.codec == "ascii":
        yield warning(
            "encoding",
            f"The database's encoding is {encoding.name}: only ASCII characters are read.",
            "Send ASCII alone (JSON can escape the rest), or move to the encoding UTF8.",
        )
    else:
        converted = "" if encoding.is_utf8 else ", which is converted"
        yield ok("encoding", f"The database's encoding is {encoding.name}{converted}.")


def check_settings(_: Case, link: Link) -> Findings:
    """Check that no timeout of the role, the database or the server can end the session."""
    if link.is_pooled:
        yield ok("settings", "Settings aren't checked through a pooler.")
        return
    effective: dict[str, str] = dict(link.ask(EFFECTIVE, ([*HURTFUL],)))
    bad = [f"{name}={value}" for name, value in effective.items() if value != HURTFUL[name]]
    if bad:
        yield warning(
            "settings",
            f"The session has {', '.join(sorted(bad))}, and can't change that.",
            "Let the role read pg_settings and change these; or ALTER ROLE … SET them to "
            + ", ".join(f"{one.partition('=')[0]}={HURTFUL[one.partition('=')[0]]}" for one in bad)
            + ".",
        )
        return
    given = sorted(one for (one,) in link.ask(CONFIGURED) if one in HURTFUL)
    said = f"; listeners override {', '.join(given)}, which the role or database sets"
    yield ok("settings", f"No timeout ends a listener's session{said if given else ''}.")
    yield from _check_keepalives(link)


def _check_keepalives(link: Link) -> Findings:
    ((is_tcp, idle, interval, times),) = link.ask(KEEPALIVES)
    seconds = idle + interval * times
    if is_tcp and seconds > _KEEPALIVES:
        yield warning(
            "settings",
            f"The server would notice only after {duration(seconds)} that a listener's machine is "
            "gone: until then, no standby takes over.",
            "Set tcp_keepalives_idle=10, tcp_keepalives_interval=5 and tcp_keepalives_count=2 on "
            "the server, or leave them at their defaults.",
        )


def check_clock(case: Case, link: Link) -> Findings:
    """Check that this machine's clock and the server's agree."""
    before = case.now()
    ((there,),) = link.ask(CLOCK)
    yield compare_clocks("the server", there, before, case.now())


def compare_clocks(name: str, there: float, before: float, after: float) -> Finding:
    """Return the finding about another machine's clock.

    Args:
        name: The other machine.
        there: Its time, in seconds since 1970.
        before: This machine's time before it was asked.
        after: This machine's time when it had answered.
    """
    skew = there - (before + after) / 2
    off = max(0.0, abs(skew) - (after - before) / 2)
    if off < SKEW:
        return ok("clock", f"The clocks of this machine and of {name} agree.")
    way = "behind" if skew > 0 else "ahead of"
    seen = f"The clock of this machine is {duration(abs(skew))} {way} that of {name}."
    advice = (
        "Have both machines keep time with NTP (timedatectl shows whether they do): countdown, eta "
        "and expires of tasks, max_age and the times of gaps depend on it."
    )
    return (failed if off >= HARMFUL_SKEW else warning)("clock", seen, advice)
