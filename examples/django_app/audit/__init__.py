"""The audit app: records what happened to orders, in its own database."""
