"""The models on this disk: what there is, what is known of it, and removing it."""
