"""The subcommand `tail`: what it reads, how it waits for a slow output, and what it prints."""
