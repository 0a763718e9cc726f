"""The raw_events room."""
