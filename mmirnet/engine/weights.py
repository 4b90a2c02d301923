"""Finds the weights in a checkpoint by the names and shapes of a model.

Checkpoints store weights under ``state_dict``, ``model`` or ``net``. The names may have
prefixes of a wrapper for several GPUs, a compiler or a classifier, or lack a prefix.
"""

import contextlib
import copy
import os

import torch
from mmengine.logging import print_log
from mmengine.model import update_init_info
from mmengine.model.weight_init import PretrainedInit
from mmengine.registry import WEIGHT_INITIALIZERS
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict
from torch import Tensor, nn

from ..errors import CheckpointError
from .checkpoint import read_checkpoint
from .wrappers import unwrap

#: Prefixes of DistributedDataParallel and torch.compile.
_WRAPPERS = ('module', '_orig_mod')
#: Prefixes of a classifier's parts, which checkpoints of bare networks lack.
_PARTS = ('', 'backbone.', 'head.')
_NO_WEIGHTS = ('optimizer', 'message_hub', 'param_schedulers', 'meta')


def fitting_weights(
    checkpoint: object, model: nn.Module, path: str, *, partial: bool = False
) -> dict[str, Tensor]:
    """Renames the weights of a checkpoint to the names of a model.

    Args:
        checkpoint (object): Content of a file.
        model (nn.Module): The model, wrapped or not.
        path (str): The file, for messages.
        partial (bool): Whether some common weights are enough, as in fine-tuning.
            Defaults to False.

    Returns:
        dict[str, Tensor]: Weights for ``load_state_dict``.

    Raises:
        ValueError: If the weights do not fit; describes the content of the file.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3, bias=False))
        >>> file = {'net': {'module.0.weight': model[0].weight}, 'epoch': 7}
        >>> list(fitting_weights(file, model, 'a.pth'))
        ['0.weight']
    """
    model = unwrap(model)
    wanted = {name: _shape(w) for name, w in model.state_dict().items()}
    sources = _sources(checkpoint)
    if not sources:
        raise CheckpointError(
            f'checkpoint {path} holds no weights{_content(checkpoint)}'
        )
    tried = [(_fit(weights, wanted), where, weights) for where, weights in sources]
    match, where, weights = max(tried, key=lambda t: len(t[0]))
    own = _own_names(weights)
    as_it_is = sum(_shape(w) == wanted.get(n) for n, w in own.items())
    if (
        as_it_is == len(wanted) == len(own)
        or _model_takes(model, own)
        or (partial and as_it_is == len(match) and _model_takes(model, own, partial))
    ):
        return own
    fitted = {name: weights[given] for name, given in match.items()}
    whole = len(match) == len(weights) and _model_takes(model, fitted)
    if match and (whole or partial):
        name, given = next(iter(match.items()))
        print_log(
            f'{path}: {len(match)} of {len(wanted)} weights are taken from '
            f'{where or "the file"} by name and shape, {given} for {name}',
            'current',
        )
        return fitted
    raise CheckpointError(_misfit(path, where, weights, match, wanted))


def check_checkpoint(
    path: str, model: nn.Module, *, partial: bool = False, whole: bool = False
) -> dict:
    """Loads a checkpoint and checks that its weights fit a model.

    MMEngine only warns if weights are missing or have another shape, and continues
    with random weights.

    Args:
        path (str): File or URL of the checkpoint.
        model (nn.Module): The model, wrapped or not.
        partial (bool): Whether some common weights are enough, as in fine-tuning.
            Defaults to False.
        whole (bool): Whether the file is known to be intact. Defaults to False.

    Returns:
        dict: The checkpoint, on the CPU. ``state_dict`` has the weights under the
        model's names.

    Raises:
        ValueError: If the file cannot be read or its weights do not fit.
        FileNotFoundError: If the file does not exist.
    """
    if whole:
        checkpoint = read_checkpoint(os.path.expanduser(path), 'cpu')
    else:
        checkpoint = CheckpointLoader.load_checkpoint(path, 'cpu', logger='silent')
    weights = fitting_weights(checkpoint, model, path, partial=partial)
    if checkpoint.get('state_dict') is None:
        return dict(state_dict=weights)
    return dict(checkpoint, state_dict=weights)


def load_weights(model: nn.Module, path: str) -> dict:
    """Loads the weights of a checkpoint into a model.

    Args:
        model (nn.Module): The model, wrapped or not.
        path (str): File or URL.

    Returns:
        dict: The checkpoint, as returned by :func:`check_checkpoint`.

    Raises:
        ValueError: If the file cannot be read or not all weights fit.
        FileNotFoundError: If the file does not exist.
    """
    checkpoint = check_checkpoint(path, model)
    load_state_dict(
        unwrap(model), checkpoint['state_dict'], strict=False, logger='current'
    )
    return checkpoint


@WEIGHT_INITIALIZERS.register_module(name='Pretrained', force=True)
class FittingPretrainedInit(PretrainedInit):
    """MMEngine's ``Pretrained``, which refuses a file without weights for the module.

    MMEngine only warns and trains from random weights. A backbone takes its part of a
    classifier's checkpoint without ``prefix``.

    Args:
        checkpoint (str): File or URL.
        prefix (str, optional): Argument of MMEngine's ``PretrainedInit``.
        map_location (str): Argument of MMEngine's ``PretrainedInit``.

    Example:
        >>> init_cfg = dict(type='Pretrained', checkpoint='epoch_300.pth')
    """

    def __call__(self, module: nn.Module) -> None:
        """Initialises a module."""
        path = self.checkpoint
        content = CheckpointLoader.load_checkpoint(path, self.map_location)
        if self.prefix is not None:
            content = _under(content, f'{self.prefix.rstrip(".")}.')
        weights = fitting_weights(content, module, path, partial=True)
        load_state_dict(module, weights, strict=False, logger='current')
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=self._get_init_info())


def _sources(
    content: object, where: str = '', depth: int = 3
) -> list[tuple[str, dict[str, Tensor]]]:
    """Returns the dicts of tensors in a file with their keys, state_dict first."""
    if not isinstance(content, dict):
        return []
    tensors = {n: w for n, w in content.items() if isinstance(n, str) and _is_tensor(w)}
    found = [(where, tensors)] if tensors else []
    if depth:
        names = [n for n in content if isinstance(n, str) and n not in _NO_WEIGHTS]
        for name in sorted(names, key=lambda n: n != 'state_dict'):
            found += _sources(content[name], f'{where}[{name!r}]', depth - 1)
    return sorted(found, key=lambda f: f[0] != "['state_dict']")


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


def _shape(weight: Tensor) -> tuple[int, ...]:
    return tuple(weight.shape) if _is_tensor(weight) else ()


def _own_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix('module.'): w for name, w in weights.items()}


def _bare(name: str) -> str:
    return '.'.join(part for part in name.split('.') if part not in _WRAPPERS)


def _fit(weights: dict, wanted: dict[str, tuple]) -> dict[str, str]:
    """Maps names of the model to names in the file, by name and shape."""
    given = {_bare(name): name for name in weights}
    asked = {_bare(name): name for name in wanted}

    def view(start: str, part: str) -> dict[str, str]:
        found = {}
        for bare, name in given.items():
            own = asked.get(f'{part}{bare.removeprefix(start)}')
            fits = own is not None and _shape(weights[name]) == wanted[own]
            if fits and bare.startswith(start):
                found[own] = name
        return found

    best = {}
    for start in _starts(given):
        views = sorted((view(start, part) for part in _PARTS), key=len, reverse=True)
        match = {}
        for found in views:
            used = set(match.values())
            new = {o: n for o, n in found.items() if o not in match and n not in used}
            match |= new
        if len(match) > len(best):
            best = match
    return best


def _starts(names: dict[str, str]) -> list[str]:
    """Returns common prefixes of the names, up to three parts, the empty one first."""
    counts = {'': len(names)}
    for name in names:
        words = name.split('.')[:-1]
        for n in range(1, min(len(words), 3) + 1):
            start = f'{".".join(words[:n])}.'
            counts[start] = counts.get(start, 0) + 1
    return [start for start, count in counts.items() if 3 * count >= len(names)]


def _model_takes(model: nn.Module, weights: dict, partial: bool = False) -> bool:
    """Whether the model loads these weights; it may rename or complete old ones."""
    fresh = copy.deepcopy(model)
    if not partial:
        with contextlib.suppress(RuntimeError):
            fresh.load_state_dict(weights)
            return True
        return False
    floats = [w for w in fresh.state_dict().values() if w.is_floating_point()]
    for weight in floats:
        weight.fill_(torch.nan)
    for name, module in fresh.named_modules():
        prefix = f'{name}.' if name else ''
        module._load_from_state_dict(dict(weights), prefix, {}, True, [], [], [])
    return not all(weight.isnan().all() for weight in floats)


def _under(checkpoint: object, prefix: str) -> object:
    """Returns the weights with this prefix, or all if none has it."""
    for _, weights in _sources(checkpoint):
        chosen = {
            name[len(prefix) :]: w
            for name, w in _own_names(weights).items()
            if name.startswith(prefix)
        }
        if chosen:
            return dict(state_dict=chosen)
    return checkpoint


def _misfit(path: str, where: str, weights: dict, match: dict, wanted: dict) -> str:
    """Describes in one line why the weights do not fit."""
    own = _own_names(weights)
    if match or own.keys() & wanted.keys():
        verdict = 'is of another architecture than the config'
    else:
        place = f' in {where}' if where else ''
        some = ', '.join(list(weights)[:2])
        verdict = (
            f'holds no weights of this model, but {len(weights)} tensors{place} '
            f'such as {some}'
        )
    used = {name.removeprefix('module.') for name in match.values()}
    unused = [n for n in own if n not in used]
    given = {n: _shape(own[n]) for n in unused} | {
        n: _shape(weights[g]) for n, g in match.items()
    }
    name = next(n for n in [*wanted, *unused] if n not in match)
    return (
        f'checkpoint {path} {verdict}: {len(match)} of {len(wanted)} weights fit; '
        f'{name} is {given.get(name, "missing")} in the file and '
        f'{wanted.get(name, "missing")} in the model'
    )


def _content(checkpoint: object) -> str:
    """Describes the content of a file without weights."""
    if not isinstance(checkpoint, dict):
        return f', but a {type(checkpoint).__name__}'
    return f', but {", ".join(map(str, list(checkpoint)[:6])) or "nothing"}'
