"""The store: PostgreSQL with or without TimescaleDB."""
