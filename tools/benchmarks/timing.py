"""Measuring side by side: time, memory, and what is kept for the backward pass."""

import json
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from mmirnet.engine.speed import device_name


def clock(device: torch.device) -> tuple[str, Callable[[], float]]:
    """The clock to time with: its name and its function.

    A single thread on a CPU is timed in seconds of that CPU. On an idle machine they
    are the wall clock's; on a busy one they leave out the time of others.
    """
    if device.type == 'cpu' and torch.get_num_threads() == 1:
        return 'CPU time', time.process_time
    return 'wall clock', time.perf_counter


def seconds(step: Callable[[], object], device: torch.device) -> float:
    """Duration of one call, with the GPU's queue emptied before and after."""
    _, now = clock(device)
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    start = now()
    step()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return now() - start


def interleaved(
    steps: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, list[float]]:
    """Time steps in turn, so that what disturbs the machine disturbs them all.

    Args:
        steps (dict[str, Callable]): What to call, by name; each is warm.
        repeats (int): Rounds.
        device (torch.device): Where they run.

    Returns:
        dict[str, list[float]]: Seconds, by name and round.
    """
    times = {name: [] for name in steps}
    names = list(steps)
    for i in range(repeats):
        # Every second round backwards: nobody always follows the same neighbour.
        for name in names if i % 2 == 0 else reversed(names):
            times[name].append(seconds(steps[name], device))
    return times


def ratio(times: list[float], base: list[float]) -> dict[str, float]:
    """Median and quartiles of the ratios that the rounds gave."""
    ratios = [a / b for a, b in zip(times, base, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return dict(median=median, low=low, high=high)


def saved_bytes(
    forward: Callable[[], object], parameters: Iterable[torch.Tensor]
) -> int:
    """Bytes that a forward pass keeps for the backward pass, parameters apart.

    A storage that several operations keep counts once.
    """
    known = {p.untyped_storage().data_ptr() for p in parameters}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)  # or its address could be given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(kept.values())


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """The most memory that one call has allocated at a time, beyond what was."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, profile_memory=True) as profile:
        step()
    now = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == '[memory]':
            now += event.nbytes()
            peak = max(peak, now)
    return peak


def machine(device: torch.device) -> dict[str, str | int]:
    """What the figures depend on and a reader cannot see from them."""
    return dict(
        device=device_name(device),
        vector=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        clock=clock(device)[0],
        torch=torch.__version__,
    )


def write_json(path: str | Path, report: dict) -> Path:
    """Write a report, making its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + '\n')
    return path
