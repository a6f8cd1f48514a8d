"""l-infinity adversarial training as a convex program."""
