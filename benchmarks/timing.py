"""Times of the benchmarks: CUDA events where there is a device, else the clock."""

import itertools
import statistics
import time

import torch


def seconds(call, device, repeats=1, warm=0):
    """Median time of `call`."""
    times = []
    for i in range(warm + repeats):
        began = mark(device)
        call()
        ended = mark(device)
        if i >= warm:
            times.append(between(began, ended))
    return statistics.median(times)


def mark(device):
    """This moment in the device's work; on a CPU, now."""
    if torch.device(device).type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(began, ended):
    """Seconds from one mark to another."""
    if isinstance(began, float):
        return ended - began
    ended.synchronize()
    return began.elapsed_time(ended) / 1000


def share_outside(owner, method, call, device):
    """Share of the time of `call` in which `owner.method` is not at work: nothing of it is on the device."""
    return sum(shares_outside(owner, method, call, device))


def shares_outside(owner, method, call, device):
    """Shares of the time of `call` before the first work of `owner.method`, between one and the next, and after all."""
    evaluate, had, spans = getattr(owner, method), method in vars(owner), []

    def timed(*args, **kwargs):
        began = mark(device)
        output = evaluate(*args, **kwargs)
        spans.append((began, mark(device)))
        return output

    setattr(owner, method, timed)
    try:
        start = mark(device)
        call()
        end = mark(device)
    finally:
        setattr(owner, method, evaluate) if had else delattr(owner, method)
    took = between(start, end)
    gaps = sum(between(one[1], after[0]) for one, after in itertools.pairwise(spans))
    return between(start, spans[0][0]) / took, gaps / took, between(spans[-1][1], end) / took
