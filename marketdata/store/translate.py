"""What PostgreSQL says, in the words of :mod:`marketdata.errors`: whether a retry helps, and what to do.

The server's own sentence is repeated, for it names tables and rows; it never holds a password. What the
client library says of a connection may hold pieces of the URL and is not repeated.
"""

import psycopg

from marketdata.errors import MarketDataError, PermanentError, StorageError, TransientError, UsageError

_VARIABLE = "MARKETDATA_DATABASE_URL"
_UPGRADE = "Bring the schema up to date: marketdata db upgrade"
# By SQLSTATE, or by its first two characters: https://www.postgresql.org/docs/current/errcodes-appendix.html
_TRANSIENT = {
    "08": ("The connection to the database was lost", "Try again."),
    "40001": ("Another transaction changed the same rows", "Try again."),
    "40P01": ("Two transactions waited for each other, and this one was ended", "Try again."),
    "53200": ("The database server is out of memory", "Try again when it has less to do."),
    "53300": ("The database server has no free connection", "Try again, or raise its max_connections."),
    "55P03": ("A lock was not free in time", "Try again."),
    "57014": ("The statement was cancelled", "Try again, or raise the server's statement_timeout."),
    "57P": ("The database server is stopping or starting", "Try again."),
}
_STORAGE = {
    "53100": ("The disk of the database server is full", "Free some space there, or shorten the retention."),
    "58": ("The database server cannot read or write its files", "Look at its log."),
    "XX001": ("The database server found damaged data", "Look at its log, and restore from a backup."),
    "XX002": ("The database server found a damaged index", "Look at its log, and run REINDEX."),
}
_USAGE = {
    "28": ("The database server refused the user or the password", f"Correct {_VARIABLE}."),
    "3D000": ("There is no such database", f"Create it, or correct {_VARIABLE}."),
    "42501": ("The user of the database may not do this", "Grant the right, or use another user."),
    "42P01": ("The database lacks a table", _UPGRADE),
    "42703": ("The database lacks a column", _UPGRADE),
    "25006": ("The database is read-only", f"Point {_VARIABLE} to the server that is written to."),
}


def translate(error: psycopg.Error, *, where: str | None = None) -> MarketDataError:
    """Return what the error means to a caller; raise it ``from None``.

    Args:
        error: what psycopg raised.
        where: ``host:port/database``, for a connection that could not be opened.
    """
    state = error.sqlstate or _state_of_refusal(str(error))
    said = error.diag.message_primary
    at = f"{where}: " if where else ""
    for known, kind in ((_TRANSIENT, TransientError), (_STORAGE, StorageError), (_USAGE, UsageError)):
        found = next((known[key] for key in (state, state[:3], state[:2]) if key in known), None)
        if found is not None:
            what, hint = found
            return kind(f"{at}{what}{_told(said)}.", hint=hint)
    if not state and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        hint = f"Is the server running, and is {_VARIABLE} right? Try again."
        return TransientError(f"{at}The database server does not answer.", hint=hint)
    code = f" (SQLSTATE {state})" if state else ""
    return PermanentError(f"{at}The database refused this{_told(said or type(error).__name__)}{code}.")


def _told(said: str | None) -> str:
    return f": {said.rstrip('.')}" if said else ""


def _state_of_refusal(text: str) -> str:
    """SQLSTATE of a refused connection, which libpq does not pass on: by the server's words."""
    refusals = {
        "password authentication failed": "28P01",
        "no password supplied": "28P01",
        "no pg_hba.conf entry": "28000",
        'role "': "28000",
        'database "': "3D000",
        "too many clients": "53300",
        "the database system is": "57P03",
    }
    if "FATAL" not in text and "no password supplied" not in text:
        return ""
    return next((state for words, state in refusals.items() if words in text), "")
