"""Make SQL scripts that upgrade the schema of the durable log from one version to another.

Each version has a file in the folder `schema`: the first one creates the schema, and each later one
upgrades the version before it.
"""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable

FOLDER = files("pgnotifier._log").joinpath("schema")

BEGIN = """
SELECT pg_catalog.set_config('pgnotifier.search_path',
    pg_catalog.current_setting('search_path'), true);
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
DO $$ BEGIN
    IF pg_catalog.current_setting('search_path') OPERATOR(pg_catalog.<>) 'pg_catalog, pg_temp' THEN
        RAISE 'execute all of these statements in one transaction';
    END IF;
END $$;
SELECT pg_catalog.set_config('pgnotifier.lock_timeout',
    pg_catalog.current_setting('lock_timeout'), true);
SELECT pg_catalog.set_config('lock_timeout', '60s', true);
SELECT pg_catalog.pg_advisory_xact_lock(1885957742);
DO $$
DECLARE
    given record;
    restoring text := '';
BEGIN
    FOR given IN
        SELECT
            CASE d.defaclobjtype
                WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'n' THEN 'SCHEMAS'
                ELSE 'FUNCTIONS'
            END AS kind,
            CASE a.grantee
                WHEN 0 THEN 'PUBLIC'
                ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee))
            END AS grantee,
            a.privilege_type AS privilege,
            CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS options
        FROM pg_catalog.pg_default_acl AS d CROSS JOIN pg_catalog.aclexplode(d.defaclacl) AS a
        WHERE d.defaclrole OPERATOR(pg_catalog.=) CURRENT_USER::pg_catalog.regrole
            AND d.defaclnamespace OPERATOR(pg_catalog.=) 0
            AND d.defaclobjtype::pg_catalog.text OPERATOR(pg_catalog.=)
                ANY (ARRAY['r', 'S', 'n', 'f'])
            AND a.grantee OPERATOR(pg_catalog.<>) d.defaclrole
    LOOP
        EXECUTE pg_catalog.format(
            'ALTER DEFAULT PRIVILEGES REVOKE %s ON %s FROM %s',
            given.privilege, given.kind, given.grantee
        );
        restoring := pg_catalog.concat(restoring, pg_catalog.format(
            'ALTER DEFAULT PRIVILEGES GRANT %s ON %s TO %s%s; ',
            given.privilege, given.kind, given.grantee, given.options
        ));
    END LOOP;
    PERFORM pg_catalog.set_config('pgnotifier.default_privileges', restoring, true);
END $$;
"""
# Outside of a transaction, the search_path would remain what it is, and the names that follow could
# be looked up where others create functions. The lock makes simultaneous installations wait.
# The owner's default privileges, which are for tables of the application, must not let a publisher
# read the log: they don't apply until the end.
END = """
DO $$ BEGIN
    EXECUTE pg_catalog.current_setting('pgnotifier.default_privileges');
END $$;
SELECT pg_catalog.set_config('lock_timeout',
    pg_catalog.current_setting('pgnotifier.lock_timeout'), true);
SELECT pg_catalog.set_config('search_path',
    pg_catalog.current_setting('pgnotifier.search_path'), true);
"""

# The schema of another role could have a view there that executes its functions with our rights.
_CHECK = """
DO $$
DECLARE
    owner pg_catalog.name;
    installed pg_catalog.int4 DEFAULT 0;
BEGIN
    SELECT pg_catalog.pg_get_userbyid(nspowner) INTO owner FROM pg_catalog.pg_namespace
    WHERE nspname OPERATOR(pg_catalog.=) 'pgnotifier';
    IF owner OPERATOR(pg_catalog.<>) CURRENT_USER THEN
        RAISE 'the schema pgnotifier belongs to role %: connect as it, or SET ROLE to it', owner;
    ELSIF owner IS NOT NULL THEN
        SELECT version INTO installed FROM pgnotifier.installed;
    END IF;
    IF installed OPERATOR(pg_catalog.<) {since} THEN
        RAISE 'this upgrades version {since} of the durable log, and % is installed',
            CASE WHEN owner IS NULL THEN 'none' ELSE installed::pg_catalog.text END;
    END IF;
END $$;
"""
_IS_MISSING = "pg_catalog.to_regnamespace('pgnotifier') IS NULL"
_IS_VERSION = "(SELECT version FROM pgnotifier.installed) OPERATOR(pg_catalog.{operator}) {version}"

Steps = Mapping[int, str]
"""The statements of each version, in order."""


def read_steps(since: int, version: int, folder: Traversable = FOLDER) -> Steps:
    """Return the statements of each version after `since`, up to and with `version`."""
    before = FOLDER.joinpath("before_upgrade.sql").read_text("ascii")
    return {
        number: ("" if number == 1 else before)
        + folder.joinpath(f"{number}.sql").read_text("ascii")
        for number in range(since + 1, version + 1)
    }


def read_grants(version: int, part: str) -> str:
    """Return the statements that grant the rights of a part in an older version.

    Each has a file, as the newest version has other objects.
    """
    return FOLDER.joinpath(f"{version}.{part}.sql").read_text("ascii")


def choose_grants(grants: Mapping[int, str]) -> Sequence[str]:
    """Return statements that execute the grants of the version that is installed.

    A migration that grants the rights of its own version may find a newer log.

    Args:
        grants: The statements of each version, in order.
    """
    first, last = min(grants), max(grants)
    made = []
    for version, statements in grants.items():
        operator = "<=" if version == first else ">=" if version == last else "="
        condition = _IS_VERSION.format(operator=operator, version=version)
        made.append(_execute(statements, f"grants_{version}", f"IF {condition} THEN ", "END IF; "))
    return made


def in_transaction(*parts: str) -> str:
    """Return statements with those that protect them before and after. They need one transaction.

    They look names up in pg_catalog alone, and no other installation runs at the same time.
    """
    return "\n".join([part.strip() for part in (BEGIN, *parts, END)]) + "\n"


def make_script(steps: Steps, since: int, *settings: str) -> str:
    """Return the statements that install the schema, or upgrade it from a version.

    An upgrade that has been made already, by another program perhaps, isn't made again.

    Args:
        steps: The statements of the versions after `since`.
        since: The version that is installed; 0 if none is.
        settings: Statements that follow.
    """
    if not since:
        return in_transaction(*steps.values(), *settings)
    return in_transaction(_CHECK.format(since=since), *_unless_installed(steps), *settings)


def make_statement(steps: Steps, since: int) -> str:
    """Return one statement that does what is left to do, for drivers that take one at a time.

    Args:
        steps: The statements of the versions after `since`.
        since: The version that has to be installed; 0 if none has to.
    """
    script = in_transaction(_CHECK.format(since=since), *_unless_installed(steps))
    return _execute(script, "pgnotifier")


def as_statement(script: str) -> str:
    """Return one statement that executes several."""
    return _execute(script, "pgnotifier")


def _unless_installed(steps: Steps) -> Sequence[str]:
    """Return the statements of each version, to be executed if it isn't installed."""
    made = []
    for version, statements in steps.items():
        condition = (
            _IS_MISSING if version == 1 else _IS_VERSION.format(operator="<", version=version)
        )
        made.append(_execute(statements, f"version_{version}", f"IF {condition} THEN ", "END IF; "))
    return made


def _execute(statements: str, tag: str, before: str = "", after: str = "") -> str:
    """Return one statement that executes others."""
    assert f"${tag}$" not in statements
    block = f"do_{tag}"
    assert f"${block}$" not in statements
    return (
        f"DO ${block}$ BEGIN {before}EXECUTE ${tag}$\n{statements.strip()}\n${tag}$; "
        f"{after}END ${block}$;\n"
    )
