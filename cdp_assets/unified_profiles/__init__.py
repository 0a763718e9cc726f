"""The unified_profiles room."""
