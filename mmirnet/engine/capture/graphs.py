"""Capture of CUDA graphs: what data it takes, and errors that say what to leave out."""

import contextlib
from collections.abc import Iterator

import torch

from ...datasets.in_memory import InMemory
from ...errors import ConfigError, first_line


@contextlib.contextmanager
def capturing(
    graph: torch.cuda.CUDAGraph, what: str, way_out: str, **options
) -> Iterator[None]:
    """Records the operations inside as a CUDA graph, which only replays run.

    Args:
        graph (torch.cuda.CUDAGraph): The graph.
        what (str): What is recorded, for the error.
        way_out (str): What to do instead, for the error.
        **options: Arguments of ``torch.cuda.graph``: pool and stream.

    Raises:
        ConfigError: If an operation cannot be captured.
    """
    try:
        # Threads of data loaders may go on meanwhile.
        with torch.cuda.graph(graph, capture_error_mode='thread_local', **options):
            yield
    except RuntimeError as error:
        # Ending the capture fails, too, and says less.
        reason = first_line(error.__context__ or error)
        raise ConfigError(
            f'{what} cannot be captured as a CUDA graph ({reason}): leave out what '
            f'waits for the device, {way_out}'
        ) from error


def problem_of_data(loader: str, data: object, device: torch.device) -> str | None:
    """Returns why a graph cannot take batches of a data set.

    Args:
        loader (str): Key of its loader in the config.
        data (object): The data set.
        device (torch.device): Device of the model.

    Returns:
        str | None: The problem; None if it can.
    """
    if not isinstance(data, InMemory):
        return (
            f'{loader}.dataset is {type(data).__name__}, whose images are not '
            "in memory: use --in-memory, or dataset=dict(type='InMemory', ...)"
        )
    if data.images.device.type != device.type:
        return (
            f'the images of InMemory are on {data.images.device.type} and the model is '
            f'on {device.type}: leave out {loader}.dataset.device'
        )
    return None
