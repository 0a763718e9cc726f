"""The destination_syncs room."""
