"""What goes wrong becomes one line on stderr and an exit code.

1 is a failure, 2 a wrong use of the command, 130 Ctrl-C, 141 a reader that has gone away.
"""

import os
import sys
import traceback

from typer.exceptions import Abort, Exit, TyperException

from marketdata.errors import MarketDataError

INTERRUPTED = 130
PIPE_CLOSED = 141


def report(error: BaseException, *, debug: bool) -> int:
    """Say on stderr what went wrong and return the exit code. With ``debug`` the stack trace comes first."""
    if isinstance(error, Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, KeyboardInterrupt | Abort):
        say("Interrupted.")
        return INTERRUPTED
    message, code = _explained(error)
    say(f"error: {message}")
    return code


def say(text: str) -> None:
    """Write one line to stderr, whatever the text holds."""
    line = " ".join(text.split())
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stderr.flush()


def _explained(error: BaseException) -> tuple[str, int]:
    if isinstance(error, MarketDataError):
        return str(error), error.exit_code
    if isinstance(error, TyperException):
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "marketdata"
        message = error.format_message().rstrip(".")
        return f"{message}. See {path} --help.", error.exit_code
    if isinstance(error, OSError) and error.errno is not None:
        where = f" {os.fsdecode(error.filename)!r}" if isinstance(error.filename, str | bytes) else ""
        return f"The system refused{where}: {os.strerror(error.errno)}.", 1
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"This is a bug in marketdata: {what}. Run it again with --debug and report what it prints.", 1
