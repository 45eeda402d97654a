"""Operating points turned into tables, pictures and verdicts."""
