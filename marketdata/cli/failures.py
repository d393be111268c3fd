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
_BUG_HINT = "Run it again with --debug and report what it prints."


def report(error: BaseException, *, debug: bool) -> int:
    """Say on stderr what went wrong and return the exit code. With ``debug`` the stack trace comes first."""
    if isinstance(error, Exit):
        return error.exit_code
    if isinstance(error, BrokenPipeError) or isinstance(error.__context__, BrokenPipeError):
        return PIPE_CLOSED  # rich makes a SystemExit of it
    if debug:
        traceback.print_exception(error, file=sys.stderr)
    if isinstance(error, KeyboardInterrupt | Abort):
        say("Interrupted.")
        return INTERRUPTED
    if isinstance(error, SystemExit) and isinstance(error.code, int):
        return error.code
    message, code = _explained(error)
    if debug:
        message = message.replace(_BUG_HINT, "Report what is printed above.")
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
        message = _with_value(error).rstrip(".")
        stop = "" if message.endswith("?") else "."
        return f"{message}{stop} See {path} --help.", error.exit_code
    if isinstance(error, OSError) and error.errno is not None:
        where = f" {os.fsdecode(error.filename)!r}" if isinstance(error.filename, str | bytes) else ""
        return f"The system refused{where}: {os.strerror(error.errno)}.", 1
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return f"This is a bug in marketdata: {what}. {_BUG_HINT}", 1


def _with_value(error: TyperException) -> str:
    """What typer says, and the value it does not say: that is in the error of pydantic behind it."""
    message = error.format_message()
    reasons = getattr(error.__cause__, "errors", None)
    if not callable(reasons):
        return message
    value = reasons()[0]["input"]
    message = message.replace("Invalid value for", f"Invalid value {value!r} for", 1)
    return message.replace(": Input should", ": it should", 1)
