"""Orders, which tell of themselves."""
