"""Benchmarks: each module measures one thing and has ``run() -> list[Row]``. ``python -m bench`` runs all."""
