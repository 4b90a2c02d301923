"""A hook that records statistics of binary layers during training."""

import math
from collections import Counter, defaultdict
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from ...binary import (
    binary_layers,
    bit_entropy,
    input_statistics,
    log2_scales,
    weight_statistics,
)
from ...errors import check_interval
from ..wrappers import unwrap


class _Measured(NamedTuple):
    """Means of one layer, and its output channels by log2(s)."""

    means: dict[str, float]
    scales: dict[int, int]


@HOOKS.register_module()
class BinaryStatsHook(Hook):
    """Records statistics of the binary layers.

    =================== ========================================================
    statistic           meaning
    =================== ========================================================
    flips               share of the weights whose sign changed since the last
                        record
    weight_entropy      entropy of a filter's signs in bits, mean over the filters
    weight_factor       mean derivative of the estimator at the weights
    weight_error        estimating error at the weights: root mean square of
                        sign(w) minus the curve of the estimator
    gradient_variance   variance of the magnitude of the weights' gradients
    log2_s/E            share of the output channels with s = 2^E
    input_entropy       entropy of an input channel's sign in bits, mean over the
                        channels
    input_dead          share of the input channels whose sign is constant within
                        a batch
    input_saturated     share of the inputs of magnitude 1 or more
    input_factor        mean derivative of the estimator at the inputs
    input_error         estimating error at the inputs
    =================== ========================================================

    Estimating error and gradient variance are the two indicators of `ReSTE
    <https://arxiv.org/abs/2308.06689>`_: a sharper estimator lowers the first and
    raises the second. Inputs are the values of which a layer takes the sign: ReActNet
    has shifted them, and ReCU divided by their deviation. Layers with W/A bits 1/32
    have no statistics of inputs, layers with 32/1 none of scales, and frozen layers
    none of gradients.

    The log shows the statistics over all layers. The visualizer receives these as
    ``binary/STATISTIC``, and those of each layer as ``binary/LAYER/STATISTIC``: JSON
    lines in ``vis_data/scalars.json``, curves in TensorBoard. The statistics include
    the inputs and gradients of all processes.

    Args:
        interval (int): Number of iterations between two records. A recorded iteration
            takes 1.4 times as long and runs uncompiled.

    Raises:
        ValueError: If the interval is not positive.

    Example:
        >>> custom_hooks = [dict(type='BinaryStatsHook', interval=100)]
    """

    priority = 'NORMAL'

    def __init__(self, interval: int = 100) -> None:
        check_interval('BinaryStatsHook', interval)
        self.interval = interval
        self.signs: dict[str, Tensor] = {}
        self._resumed: dict[str, Tensor] = {}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keeps the signs of the last record of a run that is resumed."""
        if runner._resume:
            self._resumed = checkpoint.get('binary_stats', {})

    def before_train(self, runner: Runner) -> None:
        """Keeps the signs before the first iteration, or restores them."""
        self.layers = dict(binary_layers(unwrap(runner.model)))
        if not self.layers:
            runner.logger.warning(
                'BinaryStatsHook has nothing to record: the model has no binary layers'
            )
        self.signs = {
            name: weight_statistics(layer)['signs']
            for name, layer in self.layers.items()
        }
        for name, signs in self.signs.items():
            bits = self._resumed.get(name, ())
            if len(bits) == math.ceil(signs.numel() / 8):
                self.signs[name] = _signs(bits, signs)
        self._resumed = {}

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Saves the signs of the last record beside the state of the optimizer."""
        if 'optimizer' in checkpoint:
            checkpoint['binary_stats'] = {n: _bits(s) for n, s in self.signs.items()}

    def _due(self, runner: Runner) -> bool:
        return bool(self.layers) and self.every_n_train_iters(runner, self.interval)

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None
    ) -> None:
        """Registers hooks for inputs and gradients if this iteration is recorded."""
        if not self._due(runner):
            return
        # The step may change it.
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        self.loss_scale = scaler.get_scale() if scaler else 1.0
        self.seen: dict[str, dict[str, Tensor]] = defaultdict(dict)
        self.watching = ExitStack()
        # A compiled graph does not call hooks that are registered later.
        self.watching.enter_context(torch.compiler.set_stance('force_eager'))
        for name, layer in self.layers.items():
            if layer.binarize_input:
                see = partial(self._see_input, name)
                self.watching.enter_context(layer.register_forward_pre_hook(see))
            if layer.weight.requires_grad:
                see = partial(self._see_gradient, name)
                self.watching.enter_context(layer.weight.register_hook(see))

    @torch.no_grad()
    def _see_input(self, name: str, layer: nn.Module, args: tuple) -> None:
        self.seen[name].update(input_statistics(layer, args[0]))

    def _see_gradient(self, name: str, grad: Tensor) -> None:
        magnitude = grad.detach().float().abs()
        self.seen[name]['gradient'] = magnitude.mean()
        self.seen[name]['square_gradient'] = magnitude.square().mean()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch=None, outputs=None
    ) -> None:
        """Records this iteration."""
        if not self._due(runner):
            return
        self.watching.close()
        layers = self._measure()
        overall = _statistics(self._pool(layers), *layers.values())
        text = '  '.join(f'{key}: {value:.4g}' for key, value in overall.items())
        runner.logger.info(f'Binary layers, iteration {runner.iter + 1}  {text}')
        groups = {'binary': overall} | {
            f'binary/{name}': _statistics(layer.means, layer)
            for name, layer in layers.items()
        }
        runner.visualizer.add_scalars(
            {
                f'{group}/{key}': float(f'{value:.6g}')
                for group, values in groups.items()
                for key, value in values.items()
            },
            step=runner.iter + 1,
        )

    @torch.no_grad()
    def _measure(self) -> dict[str, _Measured]:
        """Combines the observations of all processes with the current weights."""
        _average_over_ranks(self.seen)
        means: dict[tuple[str, str], Tensor] = {}
        for name, layer in self.layers.items():
            seen = self.seen[name]
            weight = weight_statistics(layer)
            flips = weight['signs'] != self.signs[name]
            self.signs[name] = weight['signs']
            means[name, 'flips'] = flips.float().mean()
            for key in ('entropy', 'factor', 'square_error'):
                means[name, f'weight_{key}'] = weight[key]
            if 'gradient' in seen:
                means[name, 'gradient'] = seen['gradient'] / self.loss_scale
                square = seen['square_gradient'] / self.loss_scale**2
                means[name, 'square_gradient'] = square
            if 'positive' in seen:
                positive = seen['positive']
                means[name, 'input_entropy'] = bit_entropy(positive).mean()
                dead = (positive == 0) | (positive == 1)
                means[name, 'input_dead'] = dead.float().mean()
                for key in ('saturated', 'factor', 'square_error'):
                    means[name, f'input_{key}'] = seen[key]
        measured = {
            name: _Measured({}, log2_scales(layer) if layer.binarize_weight else {})
            for name, layer in self.layers.items()
        }
        # One synchronisation with the device instead of one per number.
        values = torch.stack(list(means.values())).tolist()
        for (name, key), value in zip(means, values, strict=True):
            measured[name].means[key] = value
        return measured

    def _pool(self, measured: dict[str, _Measured]) -> dict[str, float]:
        """Averages over the weights, filters or input channels of all layers."""
        sums, counts = Counter(), Counter()
        for name, layer in self.layers.items():
            for key, value in measured[name].means.items():
                count = _count(layer, key)
                sums[key] += count * value
                counts[key] += count
        return {key: sums[key] / counts[key] for key in sums}


def _bits(signs: Tensor) -> Tensor:
    """Packs truth values, eight in a byte."""
    return torch.from_numpy(np.packbits(signs.cpu().numpy()))


def _signs(bits: Tensor, like: Tensor) -> Tensor:
    """Unpacks truth values into the shape and onto the device of others."""
    values = np.unpackbits(bits.numpy(), count=like.numel()).astype(bool)
    return torch.from_numpy(values).view(like.shape).to(like.device)


def _average_over_ranks(seen: dict[str, dict[str, Tensor]]) -> None:
    """Averages over all processes, in place and in one all-reduce."""
    tensors = [seen[name][key] for name in sorted(seen) for key in sorted(seen[name])]
    if not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    all_reduce(flat, 'mean')
    parts = flat.split([tensor.numel() for tensor in tensors])
    for tensor, part in zip(tensors, parts, strict=True):
        tensor.copy_(part.view_as(tensor))


def _count(layer: nn.Module, key: str) -> int:
    """Returns the number of values that a statistic averages."""
    if key.startswith('input_'):
        return layer.weight.shape[1] * getattr(layer, 'groups', 1)
    return len(layer.weight) if key == 'weight_entropy' else layer.weight.numel()


def _statistics(means: dict[str, float], *layers: _Measured) -> dict[str, float]:
    """Computes the statistics in the hook's table from means and scales."""
    values = dict(means)
    for place in ('weight', 'input'):
        if f'{place}_square_error' in values:
            square = values.pop(f'{place}_square_error')
            values[f'{place}_error'] = math.sqrt(square)
    if 'gradient' in values:
        square = values.pop('square_gradient')
        values['gradient_variance'] = square - values.pop('gradient') ** 2
    scales = Counter()
    for layer in layers:
        scales.update(layer.scales)
    for exponent in sorted(scales):
        values[f'log2_s/{exponent}'] = scales[exponent] / scales.total()
    return values
