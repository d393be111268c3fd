"""The code location: assets, checks, schedules and a sensor. Only here is Dagster imported."""
