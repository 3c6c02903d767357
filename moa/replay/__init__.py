"""Recorded providers on localhost: the other side of the demo and of the tests."""
