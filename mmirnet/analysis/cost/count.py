"""Bits, bytes and operations of every layer of a network.

Operations are counted as in `Bi-Real Net <https://arxiv.org/abs/1808.00278>`_
(table 4) and `ReActNet <https://arxiv.org/abs/2003.03488>`_:

.. math:: OPs = BOPs / 64 + FLOPs

BOPs
    multiply-accumulates of one bit with one bit. A CPU computes 64 in one
    instruction.
FLOPs
    all other multiply-accumulates of convolutions, linear layers and attention.
    Each counts as one, not two. Layers with W/A bits 1/32 and 32/1 add floats without
    multiplying them, but are counted here.

What every recipe has is not counted: BatchNorm, the additions of shortcuts and biases,
comparisons (sign, ReLU, Hardtanh, max-pooling), global pooling, and scales that are
powers of two. What only some recipes have is counted, as operations per output. A
multiplication and the addition behind it count as one:

================================== ================== ============================
part                               FLOPs              BOPs
================================== ================== ============================
float scale of a binary layer      1
AdaBin, W/A bits 1/1               2                  inputs of a window, once for
                                                      all filters of a group
PReLU, Maxout                      1
RPReLU                             2
average pooling with windows       pixels of a window
================================== ================== ============================

A float scale is counted although a BatchNorm follows. The packed network multiplies the
sum of integers by it and does not fold it into the BatchNorm, so that its outputs equal
those of the trained network bit for bit. AdaBin's output has four terms: the sum of
products of signs times a scale, the sum of the signs of the window times another, and
two constants, which are added in advance. With W/A bits 1/32, its weights are floats of
two values, and need no scale. A threshold replaces the comparison with zero.

Padded taps are counted. For ResNet-18 at 224x224 with stem, 1x1 shortcuts and
classifier in full precision, the result is 1.676e9 / 64 + 1.378e8 = 1.640e8 OPs.
Bi-Real Net reports 1.63e8, truncated to three digits: its factor of 11.06 relative to
the 1.814e9 of full precision is that of 1.640e8.
"""

import dataclasses
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console, Group
from rich.table import Table
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils.flop_counter import FlopCounterMode

from ...binary import IRConv2d, IRLinear, binary_layers, log2_scales
from ...engine.config import load_config, merge_options
from ...engine.facts import build_model, evaluation_set, image_shape, reporting_size
from ...files import check_writable
from .layers import extra_operations, packed_bytes
from .table import COLUMNS, LEGEND, NATURAL_WIDTH, cells, short, write_csv

#: One-bit operations per instruction.
WORD = 64
_FULL = '32/32'


@dataclasses.dataclass(frozen=True)
class Layer:
    """Bits, bytes and operations of one layer, for one input.

    Attributes:
        name (str): Name in the model.
        type (str): Class of the layer.
        output (tuple[int, ...]): Shape of its output, with a batch size of 1.
        bits (str): W/A bits: '1/1', '1/32' or '32/32'.
        parameters (int): Number of parameters.
        bytes_packed (int): Bytes in a packed file, see
            :func:`~mmirnet.analysis.cost.layers.packed_bytes`.
        bytes_fp32 (int): Bytes of the parameters as float32.
        binary_macs (int): Multiply-accumulates of bits with bits.
        float_macs (int): All other multiply-accumulates.
        extra_bops (int): Binary operations that are no multiply-accumulates.
        extra_flops (int): Other operations that are no multiply-accumulates.
        log2_scales (dict[int, int]): For a binary layer, the number of output channels
            by log2(s).
    """

    name: str
    type: str
    output: tuple[int, ...]
    bits: str
    parameters: int
    bytes_packed: int
    bytes_fp32: int
    binary_macs: int
    float_macs: int
    extra_bops: int
    extra_flops: int
    log2_scales: dict[int, int]

    @property
    def macs(self) -> int:
        """Number of multiply-accumulates."""
        return self.binary_macs + self.float_macs

    @property
    def binary_share(self) -> float:
        """Share of binary multiply-accumulates, 0 to 1."""
        return self.binary_macs / self.macs if self.macs else 0.0

    @property
    def bops(self) -> int:
        """Binary operations."""
        return self.binary_macs + self.extra_bops

    @property
    def flops(self) -> int:
        """Floating-point operations."""
        return self.float_macs + self.extra_flops

    @property
    def ops(self) -> float:
        """BOPs / 64 + FLOPs."""
        return self.bops / WORD + self.flops

    def to_dict(self) -> dict[str, Any]:
        """Returns all numbers by name."""
        return dataclasses.asdict(self) | dict(
            binary_share=self.binary_share,
            bops=self.bops,
            flops=self.flops,
            ops=self.ops,
        )


@dataclasses.dataclass(frozen=True)
class Summary:
    """Bits, bytes and operations of a network, per layer and in total.

    ``str()`` formats it as a table.

    Attributes:
        model (str): Class of the model.
        input_shape (tuple[int, ...]): Shape of its input, without the batch.
        layers (list[Layer]): Layers with parameters or multiply-accumulates.
    """

    model: str
    input_shape: tuple[int, ...]
    layers: list[Layer]

    @property
    def total(self) -> Layer:
        """Totals, with the bits of the binary layers, if there are any."""
        bits = {layer.bits for layer in self.layers}
        if len(bits) > 1:
            bits.discard(_FULL)
        scales = Counter()
        for layer in self.layers:
            scales.update(layer.log2_scales)
        sums = {
            name: sum(getattr(layer, name) for layer in self.layers)
            for name in (
                'parameters',
                'bytes_packed',
                'bytes_fp32',
                'binary_macs',
                'float_macs',
                'extra_bops',
                'extra_flops',
            )
        }
        return Layer(
            name='total',
            type=self.model,
            output=(),
            bits=', '.join(sorted(bits)),
            log2_scales=dict(sorted(scales.items())),
            **sums,
        )

    @property
    def compression(self) -> float:
        """Bytes in fp32 divided by bytes packed."""
        total = self.total
        return total.bytes_fp32 / total.bytes_packed if total.parameters else 1.0

    @property
    def full_precision_ops(self) -> int:
        """OPs of the same network in full precision.

        It has the same activations and pooling, and no scales of binary weights.
        """
        return sum(
            layer.macs + (layer.extra_flops if layer.bits == _FULL else 0)
            for layer in self.layers
        )

    @property
    def saving(self) -> float:
        """OPs of the same network in full precision divided by its OPs."""
        ops = self.total.ops
        return self.full_precision_ops / ops if ops else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Returns all values in types that :mod:`json` supports."""
        return dict(
            model=self.model,
            input_shape=self.input_shape,
            layers=[layer.to_dict() for layer in self.layers],
            total=self.total.to_dict(),
            compression=self.compression,
            saving=self.saving,
        )

    def comparison(self) -> str:
        """Comparison with the same network in fp32, in one line."""
        total = self.total
        was = f'{short(total.bytes_fp32, "B")}, {short(self.full_precision_ops)} OPs'
        size = (
            f'{short(total.bytes_packed, "B")} ({self.compression:.2f} times smaller)'
        )
        work = f'{short(total.ops)} OPs ({self.saving:.2f} times fewer)'
        return f'fp32: {was}; this: {size}, {work}'

    def __rich__(self) -> Group:
        shape = 'x'.join(map(str, self.input_shape))
        table = Table(
            title=f'{self.model}, input {shape}',
            caption=LEGEND,
            caption_justify='left',
            box=box.SIMPLE_HEAD,
            collapse_padding=True,
            pad_edge=False,
        )
        for header, justify in COLUMNS.items():
            table.add_column(header, justify=justify)
        for layer in self.layers:
            table.add_row(*cells(layer))
        table.add_section()
        table.add_row(*cells(self.total), style='bold')
        return Group(table, self.comparison())

    def __str__(self) -> str:
        console = Console(file=io.StringIO(), width=NATURAL_WIDTH, color_system=None)
        console.print(self)
        lines = console.file.getvalue().splitlines()
        return '\n'.join(line.rstrip() for line in lines)

    def show(self) -> None:
        """Prints the table. On a narrow terminal its lines wrap."""
        console = Console()
        console.width = max(console.width, NATURAL_WIDTH)
        console.print(self)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Sets evaluation mode in the context, and restores the mode of each module."""
    modes = [(module, module.training) for module in model.modules()]
    # torch's fused attention is one operator, which the counter does not support.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    model.eval()
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for module, training in modes:
            module.training = training


def _run(
    model: nn.Module, input_shape: tuple[int, ...]
) -> tuple[Counter[nn.Module], Counter[nn.Module], dict[nn.Module, tuple[int, ...]]]:
    """Returns multiply-accumulates, number of outputs and output shape of each module.

    torch counts the operators of a forward pass, and the innermost running module gets
    the count. The count of a binary layer is that of one convolution, whatever torch
    needs to compute it. The outputs are those of all calls.
    """
    macs: Counter[nn.Module] = Counter()
    outputs: Counter[nn.Module] = Counter()
    shapes: dict[nn.Module, tuple[int, ...]] = {}
    running: list[tuple[nn.Module, int]] = []

    def enter(module, args):
        running.append((module, counter.get_total_flops()))

    def leave(module, args, output):
        flops = counter.get_total_flops() - running.pop()[1]
        macs[module] += flops // 2  # torch counts each as two
        if running:
            macs[running[-1][0]] -= flops // 2
        if isinstance(output, Tensor):
            shapes[module] = tuple(output.shape)
            outputs[module] += output.numel()

    like = next(model.parameters(), torch.empty(0))
    image = torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
    counter = FlopCounterMode(display=False)
    with (
        _evaluating(model),
        torch.no_grad(),
        # As matrix products, which all versions of torch count, unlike fused kernels.
        sdpa_kernel(SDPBackend.MATH),
        register_module_forward_pre_hook(enter),
        register_module_forward_hook(leave),
        counter,
    ):
        model(image)
    for _, layer in binary_layers(model):
        macs[layer] = outputs[layer] * layer.weight[0].numel()
    return macs, outputs, shapes


def _log2_scales(module: nn.Module) -> dict[int, int]:
    return log2_scales(module) if isinstance(module, IRConv2d | IRLinear) else {}


def summary(model: nn.Module, input_shape: tuple[int, ...]) -> Summary:
    """Computes bits, bytes and operations of every layer of a model.

    The function runs the model once, in evaluation mode, on one input of zeros.

    Args:
        model (nn.Module): A model of MMPretrain or any other module. It does not
            change.
        input_shape (tuple[int, ...]): Shape of one input without the batch, such as
            (3, 224, 224).

    Returns:
        Summary: The layers and their totals. :mod:`mmirnet.analysis.cost.count` defines
        how operations are counted.

    Example:
        >>> net = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3, bias=False), IRConv2d(8, 8, 3, bias=False)
        ... )
        >>> total = summary(net, (3, 8, 8)).total
        >>> total.binary_macs, total.float_macs  # 16 and 36 pixels of 8 channels
        (9216, 7776)
        >>> total.bytes_packed, total.bytes_fp32
        (1000, 3168)
    """
    macs, outputs, shapes = _run(model, tuple(input_shape))
    # named_parameters() returns shared parameters once.
    parameters = Counter()
    for name, parameter in model.named_parameters():
        parameters[name.rpartition('.')[0]] += parameter.numel()
    binary = {layer for _, layer in binary_layers(model)}
    layers = []
    for name, module in model.named_modules():
        extra_bops, extra_flops = extra_operations(module, outputs[module])
        if not parameters[name] and not macs[module] and not extra_flops:
            continue
        bits = module.bits if module in binary else _FULL
        output = shapes.get(module, ())
        layers.append(
            Layer(
                name=name,
                type=type(module).__name__,
                output=output,
                bits=bits,
                parameters=parameters[name],
                bytes_packed=packed_bytes(module, parameters[name], output),
                bytes_fp32=4 * parameters[name],
                binary_macs=macs[module] if bits == '1/1' else 0,
                float_macs=0 if bits == '1/1' else macs[module],
                extra_bops=extra_bops,
                extra_flops=extra_flops,
                log2_scales=_log2_scales(module),
            )
        )
    return Summary(type(model).__name__, tuple(input_shape), layers)


def summarize_config(
    config: str | os.PathLike,
    checkpoint: str | None = None,
    *,
    size: tuple[int, int] | None = None,
    cfg_options: dict | None = None,
    json_file: str | os.PathLike | None = None,
    csv_file: str | os.PathLike | None = None,
) -> Summary:
    """Computes the summary of a config's model.

    Args:
        config (str | os.PathLike): As in ``mmirnet.apis.train``.
        checkpoint (str, optional): Checkpoint whose scales to count. Defaults to a new
            network.
        size (tuple[int, int], optional): Height and width of the images. Defaults to
            the output size of the test pipeline.
        cfg_options (dict, optional): Settings by dotted key that override the config.
        json_file (str | os.PathLike, optional): JSON file to write.
        csv_file (str | os.PathLike, optional): CSV file to write.

    Returns:
        Summary: The layers and their totals.

    Raises:
        ValueError: If the checkpoint does not fit, or if the size cannot be determined
            or is not supported by the model.
        FileNotFoundError: If the config or the checkpoint does not exist.

    Example:
        >>> config = 'mmirnet::irnet/resnet20_bireal_digits.py'
        >>> summarize_config(config).total.parameters
        269850
    """
    for file in filter(None, (json_file, csv_file)):
        check_writable(file, config, checkpoint)
    cfg = load_config(str(config), None, 'none')
    merge_options(cfg, cfg_options)
    model = build_model(cfg, checkpoint)
    channels, size = image_shape(model, evaluation_set(cfg), size)
    with reporting_size(model, (channels, *size)):
        result = summary(model, (channels, *size))
    if json_file is not None:
        Path(json_file).write_text(json.dumps(result.to_dict(), indent=1) + '\n')
    if csv_file is not None:
        write_csv(result, csv_file)
    return result
