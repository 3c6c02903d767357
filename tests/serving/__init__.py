"""The endpoint, asked by real clients; vendors are on localhost."""
