"""Tests that break real connections, servers and processes."""
