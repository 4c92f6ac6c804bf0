"""Worker processes of an engine."""
