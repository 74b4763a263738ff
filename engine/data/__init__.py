"""From a person's rows to the tokens that are trained on, and the order they come in."""
