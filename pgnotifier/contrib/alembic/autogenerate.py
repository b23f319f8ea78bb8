"""Keep the log's tables out of what `alembic revision --autogenerate` compares."""

from collections.abc import Mapping
from typing import Any

SCHEMA = "pgnotifier"


def include_name(name: str | None, kind: str, parents: Mapping[Any, str | None]) -> bool:
    """Return whether autogenerate should look at something: not at the schema `pgnotifier`.

    Pass it to `context.configure(include_name=…)`, or call it in a function of your own. With
    `include_schemas=True`, autogenerate would otherwise propose to drop the tables of the log:
    https://alembic.sqlalchemy.org/en/latest/autogenerate.html#omitting-schema-names-from-the-autogenerate-process.

    Args:
        name: The name of a schema, a table or a part of one; None for the default schema.
        kind: What it is: "schema", "table", "column" …
        parents: The names of what it is in: "schema_name" among them.
    """
    return SCHEMA not in (name if kind == "schema" else None, parents.get("schema_name"))
