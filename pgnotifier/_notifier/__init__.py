"""The parts of a notifier: its dispatchers, its listener's life, its changes, its status."""
