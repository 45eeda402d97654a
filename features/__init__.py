"""What the stages said, turned into numbers that a policy may look at."""
