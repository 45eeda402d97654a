"""What the stages on a path say, turned into a belief about the label."""
