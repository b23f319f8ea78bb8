"""A board in the browser that shows orders as soon as they are committed."""
