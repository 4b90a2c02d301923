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
from .quantisation import (
    Rule,
    check_weight,
    quantize_weight,
    scale_in_signs,
    weight_with_derivatives,
)
from .recipe import RECIPES, Quantized
from .schedules import SCHEDULES, Schedule
from .weights import WeightRule, binary_weight, in_float, libra_pb


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
    """Common part of the binary layers.

    Attributes:
        rule (Rule): Libra-PB with options, or the name of a recipe.
        bounds (dict): Arguments of the schedule before a hook moves it.
    """

    rule: Rule
    bounds: dict[str, float] = {}

    def __init__(
        self,
        *args,
        binarize_input: bool = True,
        binarize_weight: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs,
    ) -> None:
        # Named, for torch.nn.utils.skip_init.
        super().__init__(*args, device=device, dtype=dtype, **kwargs)
        check_choice('binarize_input', binarize_input, (True, False))
        check_choice('binarize_weight', binarize_weight, (True, False))
        if not binarize_input and not binarize_weight:
            raise ConfigError(
                f'{type(self).__name__} with binarize_input=False and '
                'binarize_weight=False binarises nothing: use a layer in full precision'
            )
        check_weight(self.weight, self.rule, type(self).__name__)
        self.binarize_input = binarize_input
        self.binarize_weight = binarize_weight
        # Not in the state dict: t and k belong to the schedule, and checkpoints can be
        # exchanged with the full-precision network. One tensor, changed in place: a
        # compiled graph reads it without recompilation.
        self.register_buffer(self.schedule.name, None, persistent=False)
        self._restart_schedule(self.weight.device)
        self._add_parameters()

    def _add_parameters(self) -> None:
        """Adds the learned numbers of a recipe."""
        kind = dict(device=self.weight.device, dtype=self.weight.dtype)
        if self.recipe is not None and self.recipe.scale == 'learned':
            self.alpha = nn.Parameter(torch.rand(len(self.weight), **kind))
        for name, (start, each) in self._input_parameters().items():
            shape = [getattr(self, self._inputs_name) if each else 1]
            self.register_parameter(
                name, nn.Parameter(torch.full(shape, start, **kind))
            )

    def _input_parameters(self) -> dict[str, tuple[float, bool]]:
        if self.recipe is None or not self.binarize_input:
            return {}
        return self.recipe.inputs.parameters

    def reset_parameters(self) -> None:
        """Initialises the weight and the learned numbers."""
        super().reset_parameters()
        if getattr(self, 'alpha', None) is not None:
            nn.init.uniform_(self.alpha)
        # torch's constructor calls this before there are any.
        if hasattr(self, 'binarize_input'):
            for name, (start, _) in self._input_parameters().items():
                nn.init.constant_(getattr(self, name), start)

    @property
    def recipe(self):
        """The :class:`~mmirnet.binary.Recipe`, or None for Libra-PB."""
        return None if isinstance(self.rule, WeightRule) else RECIPES[self.rule]

    @property
    def schedule(self) -> Schedule:
        """What moves with training."""
        return SCHEDULES['ede'] if self.recipe is None else self.recipe.schedule

    @property
    def t_and_k(self) -> Tensor:
        """The two numbers of the schedule, (2,)."""
        return getattr(self, self.schedule.name)

    @property
    def estimators(self) -> tuple[str, str]:
        """Names of the estimators of the weights and of the input."""
        if self.recipe is None:
            return self.rule.estimator, self.rule.estimator
        return self.recipe.estimator, self.recipe.input_estimator

    def _apply(self, fn, recurse: bool = True):
        before = self.t_and_k
        super()._apply(fn, recurse)
        after = self.t_and_k
        if before.is_meta and not after.is_meta:
            # to_empty does not initialise memory
            self._restart_schedule(after.device)
        elif after.dtype in (torch.float16, torch.bfloat16):
            # k = 1 / t would overflow, and tau come closer to 1.
            setattr(self, self.schedule.name, before.float().to(after.device))
        return self

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        if self.t_and_k.is_meta and not self.weight.is_meta:
            self._restart_schedule(self.weight.device)  # load_state_dict(assign=True)

    def _restart_schedule(self, device: torch.device) -> None:
        start = torch.tensor(self.schedule.at(0.0, **self.bounds), device=device)
        setattr(self, self.schedule.name, start)
        self.schedule_is_set = False

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

    def input_values(self) -> list[Tensor | None]:
        """Returns the two parameters of the input rule; None where it has fewer."""
        values = [getattr(self, name) for name in self._input_parameters()]
        return values + [None] * (2 - len(values))

    def _operands(self, x: Tensor) -> tuple[Tensor | None, ...]:
        """Returns input, weight, bias, alpha and the parameters of the input rule.

        Traces in evaluation omit the estimators.
        """
        alpha = getattr(self, 'alpha', None)
        operands = x, self.weight, self.bias, alpha, *self.input_values()
        if self.training or not traced():
            return operands
        return tuple(None if a is None else a.detach() for a in operands)

    def _warn_if_constant(self) -> None:
        """Warns if the layer trains with a schedule that nobody moves."""
        forgotten = self.training and not self.schedule_is_set
        if forgotten and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            if self.recipe is None and self.rule.estimator == 'ede':
                warnings.warn(
                    'binary layers train with the constant first values of EDE: add '
                    "dict(type='EDEHook') to custom_hooks, or call "
                    'mmirnet.binary.set_ede during training',
                    stacklevel=3,
                )
            elif self.recipe is not None and self.schedule.numbers:
                warnings.warn(
                    f'{type(self).__name__} trains with the constant first value of '
                    f"its schedule: add dict(type='ScheduleHook', schedule="
                    f'{self.schedule.name!r}) to custom_hooks',
                    stacklevel=3,
                )
            self.schedule_is_set = True

    @torch.no_grad()
    def quantized(self) -> Quantized:
        """Returns what a packed file keeps of the weights.

        Returns:
            Quantized: Signs, bool with the shape of the weight; the scale, (out,), or
            None; and AdaBin's offset, (out,), or None. The binary weight is the scale
            times -1 or +1, plus the offset.

        Raises:
            ConfigError: If the weights are not binarised.
        """
        if not self.binarize_weight:
            raise ConfigError(
                f'{type(self).__name__} has real weights: binarize_weight=False'
            )
        if self.recipe is None:
            z, scale = self.libra_pb()
            return Quantized(z >= 0, None if scale is None else scale.flatten())
        alpha = getattr(self, 'alpha', None)
        q = quantize_weight(self.weight, alpha, *self.t_and_k, self.rule, False)
        scale, offset = (
            None if v is None else v.flatten().expand(len(self.weight)).clone()
            for v in (q.scale, q.offset)
        )
        return Quantized(q.signs >= 0, scale, offset)

    @torch.no_grad()
    def latent(self) -> Tensor:
        """Returns the values whose signs are the binary weights, float32 or wider."""
        if self.recipe is None:
            return self.libra_pb()[0]
        w = in_float(self.weight.detach())
        if self.recipe.functions is not None:
            return self.recipe.functions.latent(w)
        return self.recipe.latent.of(w, *self.t_and_k)

    @torch.no_grad()
    def input_threshold(self) -> Tensor | None:
        """Returns the threshold of each input channel, (in,), or None for zero.

        The sign of the input is +1 where it is at least the threshold.

        Raises:
            ConfigError: If AdaBin's alpha_a is not positive, so that the sign turns.
        """
        if not self._input_parameters() or self.recipe.inputs.threshold is None:
            return None
        a, b = self.input_values()
        if self.recipe.inputs.value is not None and not a > 0:
            raise ConfigError(f'{type(self).__name__}: alpha_a={a.item()} turns signs')
        return self.recipe.inputs.threshold(a, b, getattr(self, self._inputs_name))

    @torch.no_grad()
    def input_affine(self) -> tuple[Tensor, Tensor] | None:
        """Returns AdaBin's alpha_a and beta_a, 0-dim, or None."""
        if not self._input_parameters() or self.recipe.inputs.value is None:
            return None
        return tuple(v.detach().reshape(()) for v in self.input_values())

    def libra_pb(self) -> tuple[Tensor, Tensor | None]:
        """Returns Libra-PB's standardised weights and s, both detached.

        Raises:
            ConfigError: If the layer has another recipe.
        """
        if self.recipe is not None:
            raise ConfigError(f'{type(self).__name__} does not compute Libra-PB')
        rule = self.rule
        weight = self.weight.detach()
        return libra_pb(weight, rule.standardize, rule.scale, rule.balance)

    def binary_weight(self) -> Tensor:
        """Returns the weights that this layer computes with.

        They are Q_w = s * sign(w_std) for Libra-PB.
        """
        if self.recipe is None and self.binarize_weight:
            return binary_weight(self.weight, *self.t_and_k.unbind(), self.rule)
        alpha, (t, k) = getattr(self, 'alpha', None), self.t_and_k.unbind()
        real = not self.binarize_weight
        return weight_with_derivatives(self.weight, alpha, t, k, self.rule, real)

    @property
    def bits(self) -> str:
        """W/A bits: '1/1', '1/32' or '32/1'."""
        w, a = (1 if b else 32 for b in (self.binarize_weight, self.binarize_input))
        return f'{w}/{a}'

    def extra_repr(self) -> str:
        """Adds the options of the binarisation to those of torch's layer."""
        text = f'{super().extra_repr()}, W/A bits={self.bits}'
        if self.recipe is not None:
            return text + ''.join(f', {k}={v}' for k, v in self.bounds.items())
        return text + ''.join(f', {k}={v!r}' for k, v in self.rule._asdict().items())


def _padded_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    alpha: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    t_and_k: Tensor,
    pads: list[int],
    mode: str,
    geometry: ConvGeometry,
    rule: tuple | str,
    binarize_input: bool,
    binarize_weight: bool,
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
    batch = x[None] if x.dim() == 3 else x
    y = binary_conv2d(
        batch,
        weight,
        bias,
        *t_and_k.unbind(),
        geometry,
        _rule(rule),
        binarize_input,
        binarize_weight,
        alpha,
        a,
        b,
    )
    y = y[..., crop[0] :, crop[1] :] if any(crop) else y
    return y[0] if x.dim() == 3 else y


def _linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    alpha: Tensor | None,
    a: Tensor | None,
    b: Tensor | None,
    t_and_k: Tensor,
    rule: tuple | str,
    binarize_input: bool,
    binarize_weight: bool,
) -> Tensor:
    check_types(x, weight)
    t, k = t_and_k.unbind()
    rule = _rule(rule)
    if not binarize_weight or not scale_in_signs(rule):
        # A convolution of images of one pixel, with the scale behind the sum.
        pixels = x.reshape(-1, x.shape[-1], 1, 1)
        y = binary_conv2d(
            pixels,
            weight[:, :, None, None],
            bias,
            t,
            k,
            ConvGeometry(),
            rule,
            binarize_input,
            binarize_weight,
            alpha,
            a,
            b,
        )
        return y.reshape(*x.shape[:-1], weight.shape[0])
    weight = binary_weight(weight, t, k, rule)
    if not binarize_input:
        return F.linear(x, weight, bias)
    y = F.linear(binary_sign(x, t, k, rule.estimator), weight)
    # Sums of signs are exact if the bias is added afterwards.
    return y if bias is None else y + bias.to(y.dtype)


def _plain(rule: Rule) -> tuple | str:
    """A rule as torch.fx keeps it."""
    return tuple(rule) if isinstance(rule, WeightRule) else rule


def _rule(plain: tuple | str) -> Rule:
    return plain if isinstance(plain, str) else WeightRule(*plain)


# torch.fx treats each as one operation.
torch.fx.wrap('_padded_conv2d')
torch.fx.wrap('_linear')


class BinaryConv2d(_BinaryLayer):
    """What makes an ``nn.Conv2d`` a convolution of a recipe.

    Each recipe's layer inherits from this class and from ``nn.Conv2d`` (OpenMMLab's
    initialisers look for its name among the bases), and sets ``rule``, the recipe's
    name. It has the arguments of ``nn.Conv2d``, and its state dict with the numbers
    that the recipe learns. Padding is applied after the sign: zeros count as neither +1
    nor -1.

    Args:
        *args: Arguments of ``nn.Conv2d``.
        binarize_input (bool): Take the sign of the input. If False, W/A bits are 1/32.
        binarize_weight (bool): Binarise the weights. If False, W/A bits are 32/1, as in
            the first step of two-step training.
        **kwargs: Keyword arguments of ``nn.Conv2d``.

    Raises:
        ValueError: If neither is binarised, or a filter has too few weights.

    Example:
        >>> from mmirnet.binary import ReActConv2d
        >>> conv = ReActConv2d(16, 32, 3, padding=1, bias=False)
        >>> conv(torch.randn(2, 16, 8, 8)).shape, list(conv.state_dict())
        (torch.Size([2, 32, 8, 8]), ['weight', 'shift'])
    """

    _inputs_name = 'in_channels'

    def forward(self, x: Tensor) -> Tensor:
        """Convolves an input of shape (N, in, H, W) or (in, H, W)."""
        self._warn_if_constant()
        return _padded_conv2d(
            *self._operands(x),
            self.t_and_k,
            self._reversed_padding_repeated_twice,
            self.padding_mode,
            ConvGeometry(self.stride, (0, 0), self.dilation, self.groups),
            _plain(self.rule),
            self.binarize_input,
            self.binarize_weight,
        )


class BinaryLinear(_BinaryLayer):
    """What makes an ``nn.Linear`` a linear layer of a recipe.

    Args:
        *args: Arguments of ``nn.Linear``.
        binarize_input (bool): As for :class:`BinaryConv2d`.
        binarize_weight (bool): As for :class:`BinaryConv2d`.
        **kwargs: Keyword arguments of ``nn.Linear``.

    Raises:
        ValueError: As for :class:`BinaryConv2d`.

    Example:
        >>> from mmirnet.binary import BNNLinear
        >>> BNNLinear(64, 10)(torch.randn(2, 64)).shape
        torch.Size([2, 10])
    """

    _inputs_name = 'in_features'

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., in) to (..., out)."""
        self._warn_if_constant()
        return _linear(
            *self._operands(x),
            self.t_and_k,
            _plain(self.rule),
            self.binarize_input,
            self.binarize_weight,
        )


class IRConv2d(BinaryConv2d, nn.Conv2d):
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
        **kwargs: Keyword arguments of ``nn.Conv2d``, and ``binarize_weight``.

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
        self.rule = WeightRule(standardize, scale, estimator, balance)
        # Named, for torch.nn.utils.skip_init.
        super().__init__(
            *args, binarize_input=binarize_input, device=device, dtype=dtype, **kwargs
        )


class IRLinear(BinaryLinear, nn.Linear):
    """A linear layer with Libra-PB's binary weights and binary input.

    Args:
        *args: Arguments of ``nn.Linear``.
        binarize_input (bool): As for :class:`IRConv2d`.
        standardize (bool): As for :class:`IRConv2d`.
        scale (str | None): As for :class:`IRConv2d`.
        estimator (str): As for :class:`IRConv2d`.
        balance (bool): As for :class:`IRConv2d`.
        **kwargs: Keyword arguments of ``nn.Linear``, and ``binarize_weight``.

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
        self.rule = WeightRule(standardize, scale, estimator, balance)
        # Named, for torch.nn.utils.skip_init.
        super().__init__(
            *args, binarize_input=binarize_input, device=device, dtype=dtype, **kwargs
        )


def binary_layers(
    model: nn.Module,
) -> Iterator[tuple[str, BinaryConv2d | BinaryLinear]]:
    """Iterates over the binary layers of a model.

    Args:
        model (nn.Module): Any model, wrapped (DDP, compiled, averaged) or not.

    Yields:
        tuple[str, BinaryConv2d | BinaryLinear]: Name in ``model``, and the layer.

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
    set_schedule(model, 'ede', t, k)


def set_schedule(model: nn.Module, name: str, t: float, k: float = 1.0) -> int:
    """Sets the numbers of a schedule in every binary layer that has it.

    Args:
        model (nn.Module): Any model, wrapped or not.
        name (str): Name of the schedule, a key of :data:`~mmirnet.binary.SCHEDULES`.
        t (float): First number: EDE's t, ReSTE's o, ReCU's tau.
        k (float): Second number: EDE's k.

    Returns:
        int: Number of layers.

    Raises:
        ConfigError: If there is no such schedule.

    Example:
        >>> from mmirnet.binary import ReCUConv2d
        >>> net = nn.Sequential(ReCUConv2d(8, 8, 3))
        >>> set_schedule(net, 'recu', 0.9), net[0].recu
        (1, tensor([0.9000, 1.0000]))
    """
    check_choice('schedule', name, SCHEDULES)
    layers = [layer for _, layer in binary_layers(model) if layer.schedule.name == name]
    for layer in layers:
        # Filling with a number does not synchronise with the GPU; copying would.
        layer.t_and_k[0] = t
        layer.t_and_k[1] = k
        layer.schedule_is_set = True
    return len(layers)
