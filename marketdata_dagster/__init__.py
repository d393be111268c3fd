"""The code location. Only here is dagster imported."""
