"""The subcommand `send`: the payloads, and how they are sent."""
