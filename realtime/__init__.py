"""The streamer: builds on :mod:`marketdata` and knows nothing of Dagster.

:mod:`realtime.candles` is the core, pure and with its clock injected; feeds and services are not there yet.
"""
