"""A prompt → the expected grade and output tokens of each model, before any call."""
