"""Heads that ours are compared with, and how they are compared."""
