"""Expected grades, prices and limits → who answers what."""
