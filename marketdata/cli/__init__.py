"""The ``marketdata`` command: what is typed (:mod:`marketdata.cli.main`) and one module a command."""
