"""The parts of the soak: a listener, the faults that are caused, and the accounting."""
