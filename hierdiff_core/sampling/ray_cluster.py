"""A Ray cluster: started here so that it listens on 127.0.0.1 alone, or connected to; and ended in every case."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .executor import NO_RAY

FOLDER = "hdray-"  # what the names of Ray's folders begin with
STORE = 2**28  # bytes of Ray's shared memory: what waits to be read; more than that goes to the disk
SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # workers without a GPU are left as they are
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the machine's address is 127.0.0.1 then, on Linux, too
}
CLIENT = "ray://"
LONGEST_FOLDER = 40  # characters: names of sockets may have 107, and Ray's take some 60


def import_ray() -> Any:
    """Ray; `ValueError` where it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise ValueError(NO_RAY) from error
    return ray


@contextlib.contextmanager
def begun_here(ray: Any, count: int, gpus: bool) -> Iterator[int]:
    """Start Ray on this machine, for the length of a `with` block.

    Parameters
    ----------
    ray : module
    count : int
        Workers; 0: one for each GPU, or for every two cores.
    gpus : bool
        Whether each needs a GPU.

    Yields
    ------
    count : int

    Raises
    ------
    ValueError
        If there are too few GPUs, or Ray does not start.
    """
    count = workers_here(count, gpus)
    if ray.is_initialized():  # somebody else's in this process: it is used, and left
        yield counted(ray, count, gpus)
        return
    remove_old(Path(short_folder()))
    folder = tempfile.mkdtemp(prefix=f"{FOLDER}{os.getpid()}-", dir=short_folder())
    own = {"num_gpus": count} if gpus else {}
    try:
        with started(ray, address="local", num_cpus=count, object_store_memory=STORE, _temp_dir=folder, **own):
            for place in open_ports():
                logging.warning("HierDiff: Ray listens on %s, which other machines may reach", place)
            yield count
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def connected(ray: Any, address: str, count: int, gpus: bool) -> Iterator[int]:
    """Connect to a cluster, for the length of a `with` block.

    Parameters
    ----------
    ray : module
    address : str
        As of `Workers`.
    count : int
        Workers; 0: one for each GPU of the cluster, or for every two cores.
    gpus : bool
        Whether each needs a GPU.

    Yields
    ------
    count : int

    Raises
    ------
    ValueError
        If it does not answer, or has too few GPUs or cores.
    """
    if ray.is_initialized():
        yield counted(ray, count, gpus)
        return
    with started(ray, address=address):
        yield counted(ray, count, gpus)


@contextlib.contextmanager
def started(ray: Any, address: str, **options: Any) -> Iterator[None]:
    """`ray.init` and `ray.shutdown`, which leave this process as it was."""
    local = address == "local"
    here = local or on_loopback(address)
    with quiet(), kept_handler(), environment(SETTINGS if local else {}), loopback(here):
        try:
            ray.init(
                address=address,
                include_dashboard=False if local else None,
                log_to_driver=False,
                logging_level=logging.CRITICAL,
                **options,
            )
        except Exception as error:
            ray.shutdown()
            where = "here" if local else f"at {address}"
            reason = " ".join(str(error).split())[:300]
            what_to_do = for_clients(error) if address.startswith(CLIENT) else ""
            raise ValueError(f"Ray {where} does not answer ({type(error).__name__}: {reason}){what_to_do}") from error
        except BaseException:
            ray.shutdown()
            raise
    with quiet():  # it tells of each worker that dies
        try:
            yield
        finally:
            ray.shutdown()


def for_clients(error: Exception) -> str:
    """What to do where a `ray://` address does not answer; others have neither of these."""
    if "ray[client]" in str(error):
        return f'. {CLIENT} needs more of Ray: pip install "ray[client]", or give the address without it, host:6379'
    if "RAY_AUTH_MODE" in os.environ:
        return ""
    return (
        ". Newer versions of Ray ask for a token: start this command with RAY_AUTH_MODE=token in its environment, and "
        "have the cluster's ~/.ray/auth_token here by the same name"
    )


def workers_here(count: int, gpus: bool) -> int:
    """How many workers this machine is to have; `ValueError` for more than it has GPUs."""
    if not gpus:
        return count or max(1, (os.cpu_count() or 1) // 2)
    import torch

    there = torch.cuda.device_count()
    if count > there or not there:
        raise ValueError(f"{count or 'any'} workers need a GPU each, and this machine has {there}")
    return count or there


def counted(ray: Any, count: int, gpus: bool) -> int:
    """How many workers a cluster is to have; `ValueError` for more than it has room for."""
    kind, name = ("GPU", "GPUs") if gpus else ("CPU", "cores")
    there = int(ray.cluster_resources().get(kind, 0))
    if count > there or not there:
        raise ValueError(f"{count or 'any'} workers need as many {name}, and the cluster has {there}")
    return count or (there if gpus else max(1, there // 2))


def open_ports() -> list[str]:
    """Where this process and those that it has started listen, but for 127.0.0.1: ``name address:port`` each."""
    import psutil

    found = []
    with contextlib.suppress(psutil.Error):
        me = psutil.Process()
        ray = [process for process in me.children(recursive=True) if "ray" in " ".join(process.cmdline()).lower()]
        for process in ray:
            with contextlib.suppress(psutil.Error):
                for one in getattr(process, "net_connections", process.connections)(kind="inet"):
                    if one.status == psutil.CONN_LISTEN and not is_loopback(one.laddr.ip):
                        found.append(f"{process.name()} {one.laddr.ip}:{one.laddr.port}")
    return found


def is_loopback(address: str) -> bool:
    """Whether an address is this machine's own; also of IPv4 ones written as IPv6."""
    found = ipaddress.ip_address(address)
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def remove_old(folder: Path) -> None:
    """Remove Ray's files of processes that were killed."""
    import psutil

    for path in folder.glob(f"{FOLDER}*-*"):
        pid = path.name.split("-")[1]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(path, ignore_errors=True)


def on_loopback(address: str) -> bool:
    """Whether the address of a cluster is one of this machine alone."""
    host = address.rpartition(":")[0].removeprefix(CLIENT).strip("[]")
    try:
        return host == "localhost" or is_loopback(host)
    except ValueError:  # a name
        return False


def short_folder() -> str:
    """Where Ray's files go: the system's folder for such, unless its name is too long for sockets in it."""
    folder = tempfile.gettempdir()
    return "/tmp" if len(folder) > LONGEST_FOLDER and os.path.isdir("/tmp") else folder


@contextlib.contextmanager
def loopback(wanted: bool) -> Iterator[None]:
    """Let `ray.init` take 127.0.0.1 for the machine's address: whatever it starts listens on the machine's address.

    `_node_ip_address="127.0.0.1"` does not do: Ray replaces it by the address that other machines see.
    """
    from ray._private import ray_constants

    before = getattr(ray_constants, "ENABLE_RAY_CLUSTER", None)
    if before is None or not wanted:  # a version without it is told by `open_ports`
        yield
        return
    constants: Any = ray_constants
    constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables for the length of a `with` block."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def kept_handler() -> Iterator[None]:
    """`ray.init` takes SIGTERM for itself: what was set before is set again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing of Ray in the terminal: its errors are raised."""
    logger = logging.getLogger("ray")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
