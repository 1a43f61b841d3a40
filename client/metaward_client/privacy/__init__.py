"""What decides whether, and in which form, a delta may leave the site."""
