"""A board in the browser, on which orders appear the moment they are committed."""
