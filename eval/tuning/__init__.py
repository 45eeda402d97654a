"""Studies with Optuna."""
