"""Interleaved measurements of time and memory; size and speed of packed networks."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from ...engine.speed import device_name
from ...packed import Packed, write
from ...runtime import Session


def clock(device: torch.device) -> tuple[str, Callable[[], float]]:
    """Returns name and function of the clock for a device.

    A single thread on a CPU is measured in CPU time, which excludes the time of other
    processes. On an idle machine it equals wall-clock time.
    """
    if device.type == 'cpu' and torch.get_num_threads() == 1:
        return 'CPU time', time.process_time
    return 'wall clock', time.perf_counter


def seconds(
    step: Callable[[], object],
    device: torch.device,
    now: Callable[[], float] | None = None,
) -> float:
    """Measures the duration of one call; synchronises the GPU before and after it."""
    now = now or clock(device)[1]
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    start = now()
    step()
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
    return now() - start


def interleaved(
    steps: dict[str, Callable[[], object]],
    rounds: int,
    device: torch.device | None = None,
    *,
    turn: float = 0.0,
    now: Callable[[], float] | None = None,
) -> dict[str, list[float]]:
    """Times several steps alternately, so that noise affects all of them alike.

    Args:
        steps (dict[str, Callable]): Functions by name, already warmed up.
        rounds (int): Number of rounds.
        device (torch.device, optional): Device of the steps. Defaults to the CPU.
        turn (float): Seconds per step and round. Short steps are called several times,
            after one call that fills the caches. 0 means one call.
        now (Callable, optional): The clock. Defaults to that of :func:`clock`.

    Returns:
        dict[str, list[float]]: Seconds of each call, by name.

    Example:
        >>> times = interleaved({'nothing': lambda: None}, rounds=3)
        >>> len(times['nothing'])
        3
    """
    device = device or torch.device('cpu')
    times: dict[str, list[float]] = {name: [] for name in steps}
    calls = dict.fromkeys(steps, 1)
    if turn:
        once = {name: seconds(step, device, now) for name, step in steps.items()}
        calls = {name: max(1, int(turn / (s + 1e-9))) for name, s in once.items()}
    names = list(steps)
    for i in range(rounds):
        # Every second round is reversed, so that the order does not bias the result.
        for name in names if i % 2 == 0 else reversed(names):
            if turn:
                steps[name]()
            for _ in range(calls[name]):
                times[name].append(seconds(steps[name], device, now))
    return times


def ratio(times: list[float], base: list[float]) -> dict[str, float]:
    """Returns median and quartiles of the ratios per round."""
    ratios = [a / b for a, b in zip(times, base, strict=True)]
    low, median, high = statistics.quantiles(ratios, n=4)
    return dict(median=median, low=low, high=high)


def saved_bytes(
    forward: Callable[[], object], parameters: Iterable[torch.Tensor]
) -> int:
    """Measures the bytes that a forward pass saves for backward, without parameters.

    A storage that several operations save is counted once.
    """
    known = {p.untyped_storage().data_ptr() for p in parameters}
    kept: dict[int, int] = {}
    alive = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
            alive.append(storage)  # otherwise its address could be reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(kept.values())


def peak_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Measures the peak of memory that one call allocates additionally."""
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
    """Describes the machine and the versions that the measurements depend on."""
    return dict(
        device=device_name(device),
        vector=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        clock=clock(device)[0],
        torch=torch.__version__,
    )


def packed_bytes(packed: Packed) -> int:
    """Computes the file size of a packed network.

    Args:
        packed (Packed): The network.

    Returns:
        int: Size in bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.safetensors'
        write(packed, path)
        return path.stat().st_size


def seconds_an_image(session: Session) -> tuple[float, float, float]:
    """Measures the latency of the 1-bit runtime for one image.

    It takes at least ten calls and half a second, after three warm-up calls.

    Args:
        session (Session): The session, with its number of threads.

    Returns:
        tuple[float, float, float]: Seconds: first quartile, median, third quartile.
    """
    spec = session.input
    shape = 1, spec['height'], spec['width'], spec['channels']
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    steps = {'image': lambda: session.predict(image)}
    interleaved(steps, 3)  # warm-up
    times = interleaved(steps, 10, turn=0.05, now=time.perf_counter)['image']
    return tuple(statistics.quantiles(times, n=4))
