"""How the admitted deltas of a round become one: a mean, or a rule that withstands liars."""
