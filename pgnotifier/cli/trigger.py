"""The subcommand `trigger`: create, list and drop triggers that notify of changed rows."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
import psycopg

from pgnotifier import triggers
from pgnotifier.cli.identifiers import read_names, read_table
from pgnotifier.cli.printable import printable
from pgnotifier.cli.tables import format_table
from pgnotifier.cli.target import Target, target_options
from pgnotifier.errors import PgNotifierError, in_one_line
from pgnotifier.triggers import InstalledTrigger, Trigger

_HEADINGS = {
    "table": "TABLE",
    "name": "TRIGGER",
    "channel": "CHANNEL",
    "on": "ON",
    "per": "PER",
    "payload": "PAYLOAD",
    "durable": "DURABLE",
    "enabled": "ENABLED",
    "made_by": "MADE BY",
}
_Decorator = Callable[[Callable[..., None]], Callable[..., None]]
_sql_option: _Decorator = click.option(
    "--sql",
    "as_sql",
    is_flag=True,
    help="Print the statement, for a migration.",
)


@click.group()
def trigger() -> None:
    """Create triggers that notify of changed rows, list them, and drop them."""


@trigger.command()
@click.argument("table")
@click.option("-c", "--channel", required=True, metavar="NAME", help="The channel to notify.")
@click.option(
    "--on",
    default=",".join(triggers.EVENTS),
    show_default=True,
    metavar="EVENTS",
    help="What to notify of.",
)
@click.option(
    "--columns", metavar="A,B", help="Notify of an update only if one of these columns has changed."
)
@click.option(
    "--when",
    metavar="SQL",
    help="Only rows for which this is true.  OLD and NEW are the row before and after; functions "
    "that aren't PostgreSQL's own need their schema.",
)
@click.option(
    "--payload",
    type=click.Choice(["key", "changed", "full"]),
    default="key",
    show_default=True,
    help="Send the primary key, what has changed as well, or all values.",
)
@click.option(
    "--per",
    type=click.Choice(["row", "statement"]),
    default="row",
    show_default=True,
    help="Notify of each row, or of all rows of a statement together.",
)
@click.option("--durable", is_flag=True, help="Publish to the durable log.")
@click.option(
    "--context", is_flag=True, help="Send the session's setting pgnotifier.context, if it is set."
)
@click.option("--key", metavar="A,B", help="What identifies a row.  Default: the primary key.")
@click.option("--name", metavar="NAME", help="The trigger's name.  Default: from the channel's.")
@_sql_option
@target_options
def create(
    target: Target,
    table: str,
    channel: str,
    on: str,
    columns: str | None,
    key: str | None,
    as_sql: bool,
    **options: Any,
) -> None:
    """Create a trigger on a TABLE, or replace the one of its name.

    Names are written as in SQL: orders, shop.orders, '"My Table"'.  The role has to own the table,
    or to have the right TRIGGER on it, and CREATE on its schema.

    Exit code: 1 if the server refuses it, or can't be reached, 2 if the options make no trigger.

    \b
    Examples:
    $ pgnotifier trigger create orders --channel orders
    $ pgnotifier trigger create shop.orders -c paid --on update --columns status --payload changed
    $ pgnotifier trigger create orders -c orders --per statement --sql
    """  # noqa: D301 - click's mark for a paragraph that it must not wrap
    options["name"] = options["name"] or ""
    schema, name = read_table(table)
    try:
        made = Trigger(
            name,
            channel,
            on=[one.strip().lower() for one in on.split(",")],  # type: ignore[misc]
            columns=read_names(columns),
            key=read_names(key),
            schema=schema,
            **options,
        )
    except PgNotifierError as exc:
        raise click.UsageError(printable(str(exc))) from None
    if as_sql:
        click.echo(made.create_sql())
        return
    with _connected(target) as connection:
        triggers.create(connection, made)
    click.echo(printable(f"created trigger {made.name} on {made.qualified}"))


@trigger.command("list")
@click.option("-j", "--json", "as_json", is_flag=True, help="Print JSON.")
@target_options
def list_triggers(target: Target, as_json: bool) -> None:
    """List the triggers that pgnotifier, Alembic and Django have made in the database.

    A function without a table is left of one that was dropped: see `drop --orphans`.

    Exit code: 1 if the server can't be reached.
    """
    with _connected(target) as connection:
        found = triggers.list(connection)
    if as_json:
        click.echo(json.dumps([one.to_dict() for one in found], indent=2))
    elif found:
        click.echo(format_table(_HEADINGS, map(_row, found)))
    else:
        click.echo("no triggers")


@trigger.command()
@click.argument("table", required=False)
@click.option("-c", "--channel", metavar="NAME", help="The trigger's channel.")
@click.option("--name", metavar="NAME", help="The trigger's name, if it isn't that of the channel.")
@click.option("--orphans", is_flag=True, help="Drop the functions of dropped tables.")
@_sql_option
@target_options
def drop(
    target: Target,
    table: str | None,
    channel: str | None,
    name: str | None,
    orphans: bool,
    as_sql: bool,
) -> None:
    """Drop a trigger of a TABLE, with its function.

    Exit code: 1 if there is none, the server refuses it, or can't be reached.
    """
    if orphans:
        with _connected(target) as connection:
            dropped = triggers.drop_orphans(connection)
        click.echo(
            printable("\n".join(f"dropped function {one}" for one in dropped) or "no orphans")
        )
        return
    if table is None or (channel is None and name is None):
        raise click.UsageError("name a TABLE, and --channel or --name; or give --orphans")
    schema, table_name = read_table(table)
    try:
        made = Trigger(table_name, channel or "-", schema=schema, name=name or "")
    except PgNotifierError as exc:
        raise click.UsageError(printable(str(exc))) from None
    if as_sql:
        click.echo(made.drop_sql())
        return
    with _connected(target) as connection:
        if not triggers.drop(connection, made):
            raise click.ClickException(
                printable(
                    f"{made.qualified} has no trigger {made.name} that was made by pgnotifier"
                )
            )
    click.echo(printable(f"dropped trigger {made.name} of {made.qualified}"))


@contextmanager
def _connected(target: Target) -> Iterator[psycopg.Connection[Any]]:
    """Yield a connection that looks up names as the role's own sessions do; show warnings."""
    with target.connected() as connection:
        connection.execute("RESET search_path")
        connection.add_notice_handler(_show_notice)
        try:
            with connection.transaction():
                yield connection
        except PgNotifierError as exc:
            raise click.ClickException(printable(str(exc))) from None
        except psycopg.Error as exc:
            raise click.ClickException(printable(in_one_line(exc))) from None


def _show_notice(notice: psycopg.errors.Diagnostic) -> None:
    click.echo(printable(f"{notice.severity}: {notice.message_primary}"), err=True)


def _row(one: InstalledTrigger) -> dict[str, str | None]:
    shown = {
        "table": None if one.table is None else f"{one.schema}.{one.table}",
        "name": one.name,
        "channel": one.channel,
        "on": ",".join(one.on),
        "per": one.trigger.per if one.trigger else None,
        "payload": one.trigger.payload if one.trigger else None,
        "durable": "yes" if one.durable else "no",
        "enabled": "orphan" if one.is_orphan else one.enabled,
        "made_by": one.made_by,
    }
    return {key: None if value is None else printable(value) for key, value in shown.items()}
