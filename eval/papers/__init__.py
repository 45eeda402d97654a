"""Tables of the papers with our numbers beside them."""
