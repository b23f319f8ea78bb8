"""The durable log: the schema `pgnotifier`, and all that is read from it and written to it."""
