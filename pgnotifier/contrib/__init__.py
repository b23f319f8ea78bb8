"""Frameworks that pgnotifier delivers to: each in its own package, with an extra of its name."""
