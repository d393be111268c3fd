"""The process that runs are forked from."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import gc, multiprocessing, sys
from multiprocessing import forkserver
from marketdata_dagster import server

def look(pipe):
    pipe.send((gc.get_freeze_count(), gc.isenabled(), "ccxt" in sys.modules, "polars" in sys.modules))

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(server._PRELOAD)
    ours, theirs = context.Pipe()
    child = context.Process(target=look, args=(theirs,))
    child.start()
    print(*ours.recv())
    child.join()
"""


def test_a_run_begins_with_its_imports_done_and_out_of_the_collectors_way(
    tmp_path: Path,
) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=True, timeout=300)
    frozen, collecting, ccxt, polars = done.stdout.split()
    assert int(frozen) > 100_000
    assert (collecting, ccxt) == ("True", "True")
    # It starts threads when it is imported, and threads do not survive a fork.
    assert polars == "False"
