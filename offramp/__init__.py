"""Learn where each input should stop."""
