"""pgnotifier."""
