"""An open, warehouse-first customer data platform as a Dagster project. Start at ``docs/design.md``."""
