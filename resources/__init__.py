"""What the platform talks to: warehouses, destinations and their twins.

Contract modules (``resources/warehouse/__init__.py``, ``resources/destinations/__init__.py``) know no Dagster;
the modules beside them that configure a Dagster resource do.
"""
