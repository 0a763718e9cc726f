"""The space folder: what a user writes and keeps in git, read into frozen models."""
