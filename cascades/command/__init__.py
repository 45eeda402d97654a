"""Command lines: flags, messages, progress."""
