"""Options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

Start = Annotated[
    str | None, typer.Option("--start", metavar="TIME", help="First instant wanted (UTC): 2025-06-01.")
]
End = Annotated[
    str | None, typer.Option("--end", metavar="TIME", help="End of the range, not part of it: 2025-06-08.")
]
Last = Annotated[
    str | None,
    typer.Option("--last", metavar="LENGTH", help="Instead of --start: 90m, 24h, 7d, 2w up to the end."),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        "-f",
        metavar="FORMAT",
        help="table, csv, json (an object a line) or parquet. Default: by the ending of --output; "
        "table on a terminal, csv in a pipe.",
    ),
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write to this file, in one step.")
]
OneMarket = Annotated[
    str, typer.Argument(metavar="MARKET", help="Exchange and symbol: kraken:BTC/USD.", show_default=False)
]
Rows = Annotated[int, typer.Option("--rows", min=2, help="Rows a table shows, first and last.")]
