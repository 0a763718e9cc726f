"""The linked_audiences room."""
