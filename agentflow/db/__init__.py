"""Postgres: models, partitions, migrations, and every SQL statement under `queries`."""
