"""A hook with OvSW's two changes of the gradients of binary weights."""

from functools import partial

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from ...binary import binary_layers
from ...errors import check_number
from ..wrappers import optim_wrappers, unwrap

#: Momentum of the moving average of "the sign changed in this step".
MOMENTUM = 0.999
#: Weights whose average is below this number are silent.
SILENT = 1e-4


@HOOKS.register_module()
class OvSWHook(Hook):
    """Makes the signs of binary weights change more often, as OvSW does (ECCV 2024).

    The sign of a large latent weight hardly ever changes. The hook changes the gradient
    g of the latent weights w of every binary layer before each step of the optimizer:

    - Adaptive gradient scaling: where the norm of a filter's g is less than
      ``min_ratio`` times the norm of its w, g is scaled up to that norm.
    - Silence awareness decaying: a weight is silent if its moving average of "the sign
      changed in this step" (momentum 0.999) is below 1e-4. For silent weights,
      ``silent_decay`` times w is added to g.

    The averages start at zero, as in the released code: every weight is silent until
    its sign changes for the first time. A weight is silent again 2,302 steps after a
    single change.

    The hook works on the gradients that the optimizer gets: accumulated, averaged over
    all processes, without the loss scale of mixed precision, and clipped if
    ``clip_grad`` is set. The optimizer adds its own weight decay afterwards. The
    averages are part of the checkpoint, so a resumed run continues exactly. The hook
    works with the layers of all recipes, and never waits for the device.

    Args:
        min_ratio (float): Smallest ratio of the norms of gradient and weights, delta in
            the paper. The default is that of ResNet-20 on CIFAR-10; 0.01 for ImageNet.
        silent_decay (float): Additional weight decay of silent weights, lambda in the
            paper. The default is that of ResNet-20 on CIFAR-10; 2e-5 for ImageNet.

    Raises:
        ConfigError: If an argument is not a number, negative or infinite.

    Example:
        >>> custom_hooks = [dict(type='OvSWHook', min_ratio=0.01, silent_decay=2e-5)]
    """

    priority = 'NORMAL'

    def __init__(self, min_ratio: float = 0.04, silent_decay: float = 9e-4) -> None:
        check_number('OvSWHook: min_ratio', min_ratio, 0)
        check_number('OvSWHook: silent_decay', silent_decay, 0)
        self.min_ratio = min_ratio
        self.silent_decay = silent_decay
        self.layers: dict[str, nn.Module] = {}
        #: Average of "the sign changed" of each weight, by name of the layer.
        self.averages: dict[str, Tensor] = {}
        self._resumed: dict[str, Tensor] | None = None
        self._handles = []

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Keeps the averages of a checkpoint that is resumed."""
        if runner._resume:
            self._resumed = checkpoint.get('ovsw', {})

    def before_train(self, runner: Runner) -> None:
        """Starts or restores the averages, and attaches itself to the optimizer."""
        self.layers = {
            name: layer
            for name, layer in binary_layers(unwrap(runner.model))
            if layer.binarize_weight
        }
        if not self.layers:
            runner.logger.warning(
                'OvSWHook has nothing to change: the model has no binary layers with '
                'binary weights'
            )
        self.averages = {name: _zeros(la.weight) for name, la in self.layers.items()}
        if self._resumed is not None:
            self._restore(runner)
        for wrapper in optim_wrappers(runner):
            self._attach(wrapper.optimizer)

    def _restore(self, runner: Runner) -> None:
        missing = []
        for name, average in self.averages.items():
            saved = self._resumed.get(name)
            if saved is None or saved.shape != average.shape:
                missing.append(name)
            else:
                average.copy_(saved)
        if missing:
            runner.logger.warning(
                'OvSWHook: the checkpoint has no averages of sign changes for '
                f'{len(missing)} of {len(self.averages)} layers, such as {missing[0]}: '
                'their weights are silent until their signs change'
            )
        self._resumed = None

    def _attach(self, optimizer: Optimizer) -> None:
        own = {id(p) for group in optimizer.param_groups for p in group['params']}
        names = [n for n, la in self.layers.items() if id(la.weight) in own]
        before = partial(self._before_step, names)
        after = partial(self._after_step, names)
        self._handles += [
            optimizer.register_step_pre_hook(before),
            optimizer.register_step_post_hook(after),
        ]

    def after_train(self, runner: Runner) -> None:
        """Detaches itself from the optimizer."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Saves the averages wherever the state of the optimizer is saved."""
        if 'optimizer' in checkpoint:
            checkpoint['ovsw'] = {n: a.cpu() for n, a in self.averages.items()}

    @torch.no_grad()
    def _before_step(self, names: list[str], optimizer: Optimizer, *_) -> None:
        """Changes the gradients, and keeps the signs."""
        # Fused optimizers unscale the gradients of mixed precision themselves.
        loss_scale = getattr(optimizer, 'grad_scale', None)
        self._signs = {}
        for name in names:
            layer = self.layers[name]
            if layer.weight.grad is None:
                continue
            weight = layer.weight if loss_scale is None else layer.weight * loss_scale
            silent = self.averages[name] < SILENT
            scale_up(layer.weight.grad, weight, self.min_ratio)
            layer.weight.grad.add_(weight * silent, alpha=self.silent_decay)
            self._signs[name] = _signs(layer)

    @torch.no_grad()
    def _after_step(self, names: list[str], optimizer: Optimizer, *_) -> None:
        """Updates the averages."""
        for name, signs in self._signs.items():
            changed = _signs(self.layers[name]) != signs
            self.averages[name].mul_(MOMENTUM).add_(changed, alpha=1 - MOMENTUM)


def scale_up(gradient: Tensor, weight: Tensor, min_ratio: float) -> None:
    """Scales the gradients of those filters up, in place, whose gradient is small.

    Args:
        gradient (Tensor): The gradient, (out, ...). A gradient of zero stays zero.
        weight (Tensor): The weights, of the same shape.
        min_ratio (float): Smallest norm of a filter's gradient, over that of its
            weights.

    Example:
        >>> gradient = torch.tensor([[0.6, 0.8], [6.0, 8.0]])
        >>> scale_up(gradient, torch.tensor([[40.0, 30.0], [40.0, 30.0]]), 0.1)
        >>> gradient
        tensor([[3., 4.],
                [6., 8.]])
    """
    norm = gradient.flatten(1).norm(dim=1)
    least = min_ratio * weight.flatten(1).norm(dim=1)
    factor = torch.where((norm < least) & (norm > 0), least / norm, 1)
    gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))


def _zeros(weight: Tensor) -> Tensor:
    """Starts averages; half precision cannot tell 0.999 from 1."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return torch.zeros_like(weight, dtype=dtype, requires_grad=False)


def _signs(layer: nn.Module) -> Tensor:
    return layer.quantized().signs
