"""Histories of the log, as a checkpoint holds them.

MMEngine saves every number of the log with each checkpoint, in numpy arrays, which
torch pickles byte by byte. After a hundred epochs of a small network they take seven
times as long as the weights. Tensors are copied as they are, and counts, which are all
1, are stored as one number.
"""

import copy

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from torch import Tensor


def compact(history: HistoryBuffer) -> HistoryBuffer:
    """Returns a history for a checkpoint: its arrays are tensors.

    On the CPU, MMEngine can go on with such a history: the next number makes it one of
    arrays.

    Args:
        history (HistoryBuffer): The history. It stays as it is.

    Returns:
        HistoryBuffer: The same numbers, in memory that is shared; ``history`` itself if
        torch has no such numbers.

    Example:
        >>> history = HistoryBuffer([0.5, 0.25], [1, 1])
        >>> stored = compact(history)
        >>> stored._log_history, stored._count_history.stride()
        (tensor([0.5000, 0.2500], dtype=torch.float64), (0,))
        >>> whole(stored).data[1]
        array([1, 1])
    """
    numbers, counts = history.data
    if {numbers.dtype.str[1:], counts.dtype.str[1:]} - {'f8', 'i8'}:
        return history
    stored = copy.copy(history)
    stored._log_history = torch.from_numpy(numbers)
    stored._count_history = torch.from_numpy(counts)
    if len(counts) and (counts == counts[0]).all():
        stored._count_history = torch.tensor(counts[:1]).expand(len(counts))
    return stored


def restore(checkpoint: dict) -> None:
    """Undoes :func:`compact` for all histories of a checkpoint, in place.

    Args:
        checkpoint (dict): Content of a file, of whatever program.
    """
    hub = checkpoint.get('message_hub')
    histories = hub.get('log_scalars') if isinstance(hub, dict) else None
    for history in histories.values() if isinstance(histories, dict) else ():
        if isinstance(history, HistoryBuffer):
            whole(history)


def whole(history: HistoryBuffer) -> HistoryBuffer:
    """Undoes :func:`compact`, in place; histories of MMEngine stay as they are.

    Args:
        history (HistoryBuffer): A history of a checkpoint, on any device.

    Returns:
        HistoryBuffer: The history, of arrays.
    """
    history._log_history = _array(history._log_history)
    history._count_history = _array(history._count_history)
    return history


def _array(values: Tensor | np.ndarray) -> np.ndarray:
    return values.cpu().contiguous().numpy() if isinstance(values, Tensor) else values


def extend_scalar(hub: MessageHub, key: str, values: list[float]) -> None:
    """Appends to a scalar's history at once, which copies it only once.

    Args:
        hub (MessageHub): The hub.
        key (str): Name of the scalar.
        values (list[float]): The new values, at least one.

    Example:
        >>> hub = MessageHub('extended')
        >>> extend_scalar(hub, 'train/loss', [3.0, 2.0, 1.0])
        >>> hub.get_scalar('train/loss').mean(2).item()
        1.5
    """
    hub.update_scalar(key, values[0])
    if len(values) > 1:
        old = hub.log_scalars[key]
        logs, counts = old.data
        hub.log_scalars[key] = HistoryBuffer(
            np.append(logs, values[1:])[-old.max_length :],
            np.append(counts, [1] * (len(values) - 1))[-old.max_length :],
            old.max_length,
        )
