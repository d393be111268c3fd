"""The streamer: services that run for ever. It builds on :mod:`marketdata` and knows nothing of Dagster.

The package holds its place in the layout and in the import rules; its services are not part of this
version (see the roadmap in the README).
"""
