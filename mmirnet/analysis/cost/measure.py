"""Time and memory, measured side by side; size and speed of packed networks."""

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
    """The clock to time with: its name and its function.

    A single thread on a CPU is timed in seconds of that CPU. On an idle machine they
    are the wall clock's; on a busy one they leave out the time of others.
    """
    if device.type == 'cpu' and torch.get_num_threads() == 1:
        return 'CPU time', time.process_time
    return 'wall clock', time.perf_counter


def seconds(
    step: Callable[[], object],
    device: torch.device,
    now: Callable[[], float] | None = None,
) -> float:
    """Duration of one call, with the GPU's queue emptied before and after."""
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
    """Times steps in turn, so that what disturbs the machine disturbs them all.

    Args:
        steps (dict[str, Callable]): What to call, by name; each is warm.
        rounds (int): How often each has its turn.
        device (torch.device, optional): Where they run. Defaults to the CPU.
        turn (float): Seconds of a turn: short steps are called several times in it,
            after one call that brings them back into the caches. A turn of 0 is one
            call.
        now (Callable, optional): The clock; by default that of :func:`clock`.

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
        # Every second round backwards: nobody always follows the same neighbour.
        for name in names if i % 2 == 0 else reversed(names):
            if turn:
                steps[name]()
            for _ in range(calls[name]):
                times[name].append(seconds(steps[name], device, now))
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


def packed_bytes(packed: Packed) -> int:
    """Size of the file that a packed network makes.

    Args:
        packed (Packed): The network.

    Returns:
        int: Bytes.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'model.safetensors'
        write(packed, path)
        return path.stat().st_size


def seconds_an_image(session: Session) -> tuple[float, float, float]:
    """Quartiles of the time that the 1-bit runtime takes for one image.

    Of at least ten calls and half a second, after three that warm it up.

    Args:
        session (Session): The runtime, with its number of threads.

    Returns:
        tuple[float, float, float]: Seconds: first quartile, median, third quartile.
    """
    spec = session.input
    shape = 1, spec['height'], spec['width'], spec['channels']
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    steps = {'image': lambda: session.predict(image)}
    interleaved(steps, 3)  # warm it up
    times = interleaved(steps, 10, turn=0.05, now=time.perf_counter)['image']
    return tuple(statistics.quantiles(times, n=4))
