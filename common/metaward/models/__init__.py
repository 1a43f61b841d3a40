"""Networks that the sites share."""
