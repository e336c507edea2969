"""Main memory: how much is free."""

from pathlib import Path

# Limit, use and details of a container's memory; its use counts files that are only cached.
CONTAINERS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat"),
    (
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        "/sys/fs/cgroup/memory/memory.stat",
    ),
)
CACHED = ("inactive_file", "active_file")


def free_host_memory() -> int:
    """Bytes of main memory that this program may still take without swapping, within its container's limit."""
    import psutil

    free = psutil.virtual_memory().available
    for limit, used, details in CONTAINERS:
        try:
            taken = int(Path(used).read_text()) - cached_bytes(Path(details).read_text())
            free = min(free, max(0, int(Path(limit).read_text()) - taken))
        except (OSError, ValueError):  # no container of this kind, or one without a limit
            continue
    return free


def cached_bytes(details: str) -> int:
    """Bytes of cached files in a container's memory.stat."""
    rows = (line.split() for line in details.splitlines())
    return sum(int(row[1]) for row in rows if len(row) == 2 and row[0] in CACHED)


def gibibytes(size: float) -> str:
    """A size for a message."""
    return f"{size / 2**30:.1f} GiB"
