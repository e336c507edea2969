"""A large CUDA card made a small one: a tensor lies in the rest of its memory, and the code under test sees neither."""

import contextlib
from unittest import mock

import torch

GIB = 2**30
TAKEN = 0.75  # GiB of a card that its driver, the context of a process and a desktop take


def ballast(free, reserved, gib):
    """Bytes to lay aside so that a process has what a card of `gib` GiB would leave it.

    Parameters
    ----------
    free : int
        Bytes that the real card has free.
    reserved : int
        Bytes that this process has taken already: they are in the small card too.
    gib : float
        Size of the small card.

    Raises
    ------
    ValueError
        If the process has more already, or the real card less.
    """
    left = round((gib - TAKEN) * GIB) - reserved
    if left <= 0:
        raise ValueError(f"{reserved / GIB:.1f} GiB are taken already: they leave nothing of a card of {gib:g} GiB")
    if left > free:
        raise ValueError(f"the card has {free / GIB:.1f} GiB free, less than a card of {gib:g} GiB would have")
    return free - left


@contextlib.contextmanager
def small_card(gib):
    """Within the block all sees a card of `gib` GiB: what does not fit there is out of memory. Yields `Peaks`."""
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    plain = torch.cuda.mem_get_info
    size = ballast(plain()[0], torch.cuda.memory_reserved(), gib)
    rest = torch.empty(size, dtype=torch.uint8, device="cuda")

    def seen(device=None):
        return plain(device)[0], round(gib * GIB)

    with mock.patch("torch.cuda.mem_get_info", seen):
        try:
            yield Peaks(size)
        finally:
            del rest
            torch.cuda.empty_cache()


class Peaks:
    """The most that a process has had at once, without the ballast; GiB."""

    def __init__(self, ballast_bytes=0):
        self.ballast_bytes = ballast_bytes
        self.begin()

    def begin(self):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self.retries = self._count("num_alloc_retries")
        self.failures = self._count("num_ooms")

    @staticmethod
    def _count(name):
        return torch.cuda.memory_stats().get(name, 0)

    def told(self):
        """(peak GiB of tensors, peak GiB reserved, allocations tried again, allocations that failed)"""
        used = torch.cuda.max_memory_allocated() - self.ballast_bytes
        reserved = torch.cuda.max_memory_reserved() - self.ballast_bytes
        again = self._count("num_alloc_retries") - self.retries, self._count("num_ooms") - self.failures
        return round(used / GIB, 2), round(reserved / GIB, 2), *again
