"""Peak memory of a process, as the kernel counts it."""

import resource
from pathlib import Path


def peak_bytes() -> int:
    """Peak memory of this process; on Linux without what a parent had before."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text("utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
