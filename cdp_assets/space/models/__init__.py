"""What a space folder says, as frozen models: one module per kind of file; every field is described, for editors and docs.

Loading, located errors and references between files are in :mod:`cdp_assets.space.load`. Meaning is in the rooms.
"""
