"""Networks turned into outputs and measured times."""
