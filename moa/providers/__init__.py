"""A request ⇄ one vendor's wire."""
