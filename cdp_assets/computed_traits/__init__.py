"""The computed_traits room."""
