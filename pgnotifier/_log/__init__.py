"""The durable log: the schema `pgnotifier` in the database, and all SQL that uses it."""
