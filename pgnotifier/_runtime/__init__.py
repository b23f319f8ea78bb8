"""What the other packages stand on: hooks, locks, clocks, logging, and the life of the process."""
