"""The data graph: Segment's configuration language read into a graph of profiles, relationships and entities.

Knows no Dagster and no database. Grammar and limits: docs/design.md, Formats.
"""
