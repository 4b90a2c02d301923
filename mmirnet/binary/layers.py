"""Binary layers: subclasses of ``nn.Conv2d`` and ``nn.Linear`` with quantisers."""

import math
import warnings
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ConfigError, check_choice
from .estimators import binary_sign
from .functional import ConvGeometry, binary_conv2d, check_types
from .modes import traced
from .schedules import ede
from .weights import WeightRule, binary_weight, check_filters, libra_pb


def _is_rescaled(old: Tensor, new: Tensor) -> bool:
    """Whether one weight is the other times a factor per output channel."""
    if old.shape != new.shape or old.is_meta or new.is_meta or not old.numel():
        return False
    a, b = (w.detach().flatten(1).to('cpu', torch.double) for w in (old, new))
    factor = ((a * b).sum(1) / a.square().sum(1)).nan_to_num(0)
    eps = 4 * max(torch.finfo(w.dtype).eps for w in (old, new))
    exact = (b - factor[:, None] * a).norm(dim=1) <= eps * b.norm(dim=1)
    return bool(exact.all() and factor.any()) and not torch.equal(a, b)


class _BinaryLayer:
    """Common part of the binary layers: the weight rule, and t and k of EDE."""

    def _init_binary(self, binarize_input: bool, rule: WeightRule) -> None:
        check_choice('binarize_input', binarize_input, (True, False))
        check_filters(self.weight, rule.balance, type(self).__name__)
        self.binarize_input = binarize_input
        self.rule = rule
        # Not in the state dict: t and k belong to the schedule, and checkpoints can be
        # exchanged with the full-precision network. One tensor, changed in place: a
        # compiled graph reads it without recompilation.
        t_and_k = torch.tensor(ede(0.0), device=self.weight.device)
        self.register_buffer('ede', t_and_k, persistent=False)
        self.ede_is_set = False

    def _apply(self, fn, recurse: bool = True):
        was_meta = self.ede.is_meta
        super()._apply(fn, recurse)
        if was_meta and not self.ede.is_meta:
            self._restart_ede(self.ede.device)  # to_empty does not initialise memory
        return self

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.ede.is_meta and not self.weight.is_meta:
            self._restart_ede(self.weight.device)  # load_state_dict(assign=True)

    def _restart_ede(self, device: torch.device) -> None:
        self.ede = torch.tensor(ede(0.0), device=device)
        self.ede_is_set = False

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """Adds or replaces a parameter, unless binarisation would undo the change.

        Raises:
            ValueError: If a weight is pruned, or multiplied by a factor per channel,
                as in fusing with a batch norm.
        """
        weight = self._parameters.get('weight')
        if weight is not None and param is not None:
            if name == 'weight_orig':
                raise ConfigError(
                    f'{type(self).__name__} cannot be pruned: a binary weight is -s or '
                    '+s, and a zero among the latent weights becomes one of them'
                )
            if name == 'weight' and _is_rescaled(weight, param):
                raise ConfigError(
                    f'{type(self).__name__} cannot be fused with a batch norm: its '
                    'weight was multiplied by a factor per channel, which '
                    'binarisation removes. Keep the norm: '
                    'tools/deploy/pack.py folds it'
                )
        super().register_parameter(name, param)

    def __prepare_scriptable__(self):
        """Refuses ``torch.jit.script``, which calls this method.

        Raises:
            ValueError: Always. Use tracing instead.
        """
        raise ConfigError(
            f'{type(self).__name__} cannot be compiled by torch.jit.script: use '
            'torch.jit.trace in evaluation mode'
        )

    def _operands(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns input, weight and bias; traces in evaluation omit the estimators."""
        operands = x, self.weight, self.bias
        if self.training or not traced():
            return operands
        return tuple(None if a is None else a.detach() for a in operands)

    def _warn_if_constant(self) -> None:
        """Warns if the layer trains with EDE, but without a schedule."""
        forgotten = self.training and not self.ede_is_set
        if forgotten and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            if self.rule.estimator == 'ede':
                warnings.warn(
                    'binary layers train with the constant first values of EDE: add '
                    "dict(type='EDEHook') to custom_hooks, or call "
                    'mmirnet.binary.set_ede during training',
                    stacklevel=3,
                )
            self.ede_is_set = True

    def libra_pb(self) -> tuple[Tensor, Tensor | None]:
        """Returns the balanced, standardised weights and s, both detached."""
        rule = self.rule
        weight = self.weight.detach()
        return libra_pb(weight, rule.standardize, rule.scale, rule.balance)

    def binary_weight(self) -> Tensor:
        """Returns Q_w = s * sign(w_std), the weights that this layer computes with."""
        return binary_weight(self.weight, *self.ede.unbind(), self.rule)

    @property
    def bits(self) -> str:
        """W/A bits, '1/1' or '1/32'."""
        return '1/1' if self.binarize_input else '1/32'

    def extra_repr(self) -> str:
        """Adds the options of the binarisation to those of torch's layer."""
        rule = ', '.join(f'{k}={v!r}' for k, v in self.rule._asdict().items())
        return f'{super().extra_repr()}, W/A bits={self.bits}, {rule}'


def _padded_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    t_and_k: Tensor,
    pads: list[int],
    mode: str,
    geometry: ConvGeometry,
    rule: tuple,
    binarize_input: bool,
) -> Tensor:
    """Computes :func:`binary_conv2d` with the padding of ``nn.Conv2d``."""
    left, right, top, bottom = pads
    crop = (0, 0)
    if mode != 'zeros':
        # The padding copies pixels, so the sign can be taken afterwards.
        x = F.pad(x, pads, mode=mode)
    else:
        # 'same' pads an even kernel by one more at the end: pad both sides by that
        # amount and crop the first row and column.
        stride, _, dilation, groups = geometry
        geometry = ConvGeometry(stride, (bottom, right), dilation, groups)
        crop = (bottom - top, right - left)
    rule = WeightRule(*rule)
    batch = x[None] if x.dim() == 3 else x
    y = binary_conv2d(
        batch, weight, bias, *t_and_k.unbind(), geometry, rule, binarize_input
    )
    y = y[..., crop[0] :, crop[1] :] if any(crop) else y
    return y[0] if x.dim() == 3 else y


def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    t_and_k: Tensor,
    rule: tuple,
    binarize_input: bool,
) -> Tensor:
    check_types(x, weight)
    t, k = t_and_k.unbind()
    rule = WeightRule(*rule)
    weight = binary_weight(weight, t, k, rule)
    if not binarize_input:
        return F.linear(x, weight, bias)
    y = F.linear(binary_sign(x, t, k, rule.estimator), weight)
    # Sums of signs are exact if the bias is added afterwards.
    return y if bias is None else y + bias.to(y.dtype)


# torch.fx treats each as one operation.
for function in ('_padded_conv2d', '_linear'):
    torch.fx.wrap(function)


class IRConv2d(_BinaryLayer, nn.Conv2d):
    """A 2-d convolution with Libra-PB's binary weights and binary input.

    The layer has the arguments and the state dict of ``nn.Conv2d``, and is registered
    for OpenMMLab's ``conv_cfg=dict(type='IRConv2d')``. Padding is applied after the
    sign: zeros count as neither +1 nor -1.

    Args:
        *args: Arguments of ``nn.Conv2d``.
        binarize_input (bool): Take the sign of the input (W/A bits 1/1). If False, the
            input is not binarised (1/32).
        standardize (bool): Divide weights by their standard deviation.
        scale (str | None): 'shift', 'mean' or None, see
            :func:`~mmirnet.binary.libra_pb`.
        estimator (str): A name of :data:`~mmirnet.binary.ESTIMATORS`: 'ede', 'ste' or
            'approx_sign'.
        balance (bool): Subtract the mean of each filter. False gives the plain sign.
        **kwargs: Keyword arguments of ``nn.Conv2d``.

    Raises:
        ValueError: If ``scale`` or ``estimator`` is unknown, or if filters have a
            single weight (depthwise 1x1), which balancing sets to zero.

    Example:
        >>> conv = IRConv2d(16, 32, 3, padding=1, bias=False)
        >>> conv(torch.randn(2, 16, 8, 8)).shape
        torch.Size([2, 32, 8, 8])
    """

    def __init__(
        self,
        *args,
        binarize_input: bool = True,
        standardize: bool = True,
        scale: str | None = 'shift',
        estimator: str = 'ede',
        balance: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs,
    ) -> None:
        # Named, for torch.nn.utils.skip_init.
        super().__init__(*args, device=device, dtype=dtype, **kwargs)
        rule = WeightRule(standardize, scale, estimator, balance)
        self._init_binary(binarize_input, rule)

    def forward(self, x: Tensor) -> Tensor:
        """Convolves an input of shape (N, in, H, W) or (in, H, W)."""
        self._warn_if_constant()
        return _padded_conv2d(
            *self._operands(x),
            self.ede,
            self._reversed_padding_repeated_twice,
            self.padding_mode,
            ConvGeometry(self.stride, (0, 0), self.dilation, self.groups),
            tuple(self.rule),
            self.binarize_input,
        )


class IRLinear(_BinaryLayer, nn.Linear):
    """A linear layer with Libra-PB's binary weights and binary input.

    Args:
        *args: Arguments of ``nn.Linear``.
        binarize_input (bool): As for :class:`IRConv2d`.
        standardize (bool): As for :class:`IRConv2d`.
        scale (str | None): As for :class:`IRConv2d`.
        estimator (str): As for :class:`IRConv2d`.
        balance (bool): As for :class:`IRConv2d`.
        **kwargs: Keyword arguments of ``nn.Linear``.

    Raises:
        ValueError: As for :class:`IRConv2d`.

    Example:
        >>> IRLinear(64, 10)(torch.randn(2, 64)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        *args,
        binarize_input: bool = True,
        standardize: bool = True,
        scale: str | None = 'shift',
        estimator: str = 'ede',
        balance: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs,
    ) -> None:
        # Named, for torch.nn.utils.skip_init.
        super().__init__(*args, device=device, dtype=dtype, **kwargs)
        rule = WeightRule(standardize, scale, estimator, balance)
        self._init_binary(binarize_input, rule)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        self._warn_if_constant()
        return _linear(
            *self._operands(x), self.ede, tuple(self.rule), self.binarize_input
        )


def binary_layers(model: nn.Module) -> Iterator[tuple[str, IRConv2d | IRLinear]]:
    """Iterates over the binary layers of a model.

    Args:
        model (nn.Module): Any model, wrapped (DDP, compiled, averaged) or not.

    Yields:
        tuple[str, IRConv2d | IRLinear]: Name in ``model``, and the layer.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), IRConv2d(8, 8, 3))
        >>> [name for name, _ in binary_layers(net)]
        ['1']
    """
    for name, module in model.named_modules():
        if isinstance(module, _BinaryLayer):
            yield name, module


def set_ede(model: nn.Module, t: float, k: float | None = None) -> None:
    """Sets EDE's t and k in every binary layer of a model.

    Args:
        model (nn.Module): Any model, wrapped or not.
        t (float): Sharpness, positive.
        k (float | None): Height. Defaults to max(1/t, 1) (eq. 9).

    Raises:
        ValueError: If t or k is not positive, or infinite.

    Example:
        >>> net = nn.Sequential(IRConv2d(8, 8, 3))
        >>> set_ede(net, t=0.5)
        >>> net[0].ede
        tensor([0.5000, 2.0000])
    """
    if not 0 < t < math.inf or (k is not None and not 0 < k < math.inf):
        raise ConfigError(f'EDE needs positive t and k, got t={t} and k={k}')
    k = max(1 / t, 1.0) if k is None else k
    for _, layer in binary_layers(model):
        # Filling with a number does not synchronise with the GPU; copying would.
        layer.ede[0] = t
        layer.ede[1] = k
        layer.ede_is_set = True
