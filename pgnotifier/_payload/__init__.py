"""The parts of `pgnotifier.payload`: reading and writing JSON and Python literals."""
