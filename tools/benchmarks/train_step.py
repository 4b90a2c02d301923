"""Times a training step of the reference, of full precision and of all recipes.

Before the measurement, the script compares the gradients of every binary layer with the
reference. It compares layer by layer, because rounding decides signs, and end to end a
binary network is chaotic.
"""

import argparse
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from mmengine.logging import MMLogger
from mmpretrain.registry import MODELS
from reference import ReferenceConv2d
from reports import write_json
from torch import Tensor, nn

from mmirnet import binary
from mmirnet.analysis.cost.measure import (
    interleaved,
    machine,
    peak_bytes,
    ratio,
    saved_bytes,
    seconds,
)
from mmirnet.apis.command_line import at_least, writable
from mmirnet.binary import RECIPES, Hardtanh, IRConv2d, binary_layers, set_ede
from mmirnet.engine.speed import allow_tf32, compile_model

ARCHS = {
    'resnet20': dict(
        backbone=dict(type='IRResNet_CIFAR', depth=20), classes=10, width=64, size=32
    ),
    'resnet18': dict(
        backbone=dict(type='IRResNet', depth=18), classes=1000, width=512, size=224
    ),
}
T = 0.5  # in the middle of EDE's schedule, where all code paths are used
TOLERANCE = 1e-5  # relative, for the gradients of a float32 layer


class Variant(NamedTuple):
    """A variant of the network."""

    conv: type | None  # None means nn.Conv2d
    compile: bool = False
    amp: bool = False
    channels_last: bool = False
    captured: bool = False  # the whole step in a CUDA graph


def variants() -> dict[str, Variant]:
    """Returns ref, fp, ours and the other recipes.

    fp and ours come in all combinations of options, and compiled ones also captured.
    """
    table = {
        'ref': Variant(ReferenceConv2d),
        'ref bf16 channels_last': Variant(ReferenceConv2d, False, True, True),
    }
    for name, conv in (('fp', None), ('ours', IRConv2d)):
        for options in range(8):
            compiled, amp, last = (bool(options & bit) for bit in (4, 2, 1))
            words = ['compiled'] * compiled + ['bf16'] * amp + ['channels_last'] * last
            key = ' '.join([name, *(words or ['eager'])])
            table[key] = Variant(conv, compiled, amp, last)
            if compiled:
                table[f'{key} captured'] = Variant(conv, compiled, amp, last, True)
    for recipe in RECIPES:
        conv = getattr(binary, f'{recipe}Conv2d')
        table[f'{recipe} eager'] = Variant(conv)
        table[f'{recipe} compiled channels_last'] = Variant(conv, True, False, True)
    return table


def on(device: torch.device) -> list[str]:
    """Returns the variants that a device can run."""
    return [n for n, v in VARIANTS.items() if device.type == 'cuda' or not v.captured]


VARIANTS = variants()
BASES = ('ref', 'fp eager')  # baselines


def build(arch: str, variant: Variant, device: torch.device) -> nn.Module:
    """Builds the classifier, always with the same initial weights.

    The baselines use torch's own activation.
    """
    spec = ARCHS[arch]
    conv_cfg = None if variant.conv is None else dict(type=variant.conv)
    plain = variant.conv in (None, ReferenceConv2d)
    act = nn.Hardtanh if plain else Hardtanh
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(
                conv_cfg=conv_cfg,
                act_cfg=dict(type=act, inplace=True),
                **spec['backbone'],
            ),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(
                type='BNLinearClsHead',
                num_classes=spec['classes'],
                in_channels=spec['width'],
            ),
        )
    )
    model.init_weights()
    model.to(device)
    for layer in model.modules():
        if isinstance(layer, ReferenceConv2d):
            layer.t.fill_(T)
            layer.k.fill_(max(1 / T, 1.0))
    set_ede(model, T)
    for _, layer in binary_layers(model):
        # Without a warning: other schedules stand at the start.
        layer.schedule_is_set = True
    if variant.channels_last:
        model.to(memory_format=torch.channels_last)
    if variant.compile:
        compile_model(model)
    return model


class Step:
    """A training step of one variant: forward, loss, backward, SGD."""

    #: Steps of a call.
    repeats = 1

    def __init__(self, arch: str, variant: Variant, x: Tensor, labels: Tensor) -> None:
        self.variant = variant
        self.model = build(arch, variant, x.device)
        layout = (
            torch.channels_last if variant.channels_last else torch.contiguous_format
        )
        self.x = x.to(memory_format=layout)
        self.labels = labels
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=0.01,
            momentum=0.9,
            weight_decay=1e-4,
            fused=variant.captured,
        )

    def forward(self) -> Tensor:
        """Computes the loss."""
        autocast = torch.autocast(self.x.device.type, torch.bfloat16)
        with autocast if self.variant.amp else nullcontext():
            return nn.functional.cross_entropy(self.model(self.x), self.labels)

    def __call__(self) -> None:
        """Runs one step."""
        self.optimizer.zero_grad()
        self.forward().backward()
        self.optimizer.step()


class CapturedStep(Step):
    """Steps of one variant in a CUDA graph; a call replays all of them."""

    #: Steps of a call, as in CapturedEpochLoop.
    repeats = 10

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.graph = None

    def __call__(self) -> None:
        """Runs the steps; the first call captures them after some uncaptured ones."""
        if self.graph is None:
            self._capture()
        self.graph.replay()

    def _capture(self) -> None:
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                super().__call__()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(self.repeats):
                super().__call__()
                self.optimizer.zero_grad()
        self.graph = graph


def make_step(arch: str, variant: Variant, x: Tensor, labels: Tensor) -> Step:
    """Makes the step of a variant."""
    return (CapturedStep if variant.captured else Step)(arch, variant, x, labels)


def layers_and_inputs(model: nn.Module, x: Tensor) -> dict[str, tuple]:
    """Returns every binary convolution of a network with its input."""
    seen = {}
    hooks = [
        layer.register_forward_hook(
            lambda layer, args, out, name=name: seen.update(
                {name: (layer, args[0].detach().clone(), torch.randn_like(out))}
            )
        )
        for name, layer in model.named_modules()
        if isinstance(layer, IRConv2d)
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return seen


def gradients(layer: Callable, weight: Tensor, x: Tensor, grad: Tensor) -> list[Tensor]:
    """Computes the gradients of input and weight."""
    x = x.detach().requires_grad_()
    return torch.autograd.grad(layer(x), (x, weight), grad)


def check_gradients(arch: str, images: Tensor, compiled: bool) -> dict[str, float]:
    """Compares the gradients of every binary layer with the reference.

    Args:
        arch (str): Name of the network.
        images (Tensor): (N, 3, H, W).
        compiled (bool): Whether to compare compiled layers as well.

    Returns:
        dict[str, float]: Maximum relative difference of each float32 variant, over
        layers and over the gradients of input and weight.

    Raises:
        ValueError: If the difference of a layer is more than 1e-5.
    """
    net = build(arch, Variant(IRConv2d), images.device).backbone
    fast = torch.compile(IRConv2d.forward, dynamic=False, fullgraph=True)
    worst = {}
    for name, (ours, x, grad) in layers_and_inputs(net, images).items():
        ref = ReferenceConv2d(
            ours.in_channels, ours.out_channels, 3, ours.stride, 1, bias=False
        ).to(x.device)
        ref.load_state_dict(ours.state_dict())
        ref.t.copy_(ours.ede[0])
        ref.k.copy_(ours.ede[1])
        wanted = gradients(ref, ref.weight, x, grad)
        last = x.to(memory_format=torch.channels_last)
        ways = [('eager', ours, x), ('eager channels_last', ours, last)]
        if compiled:
            layer = partial(fast, ours)
            ways += [('compiled', layer, x), ('compiled channels_last', layer, last)]
        for variant, layer, x_in in ways:
            got = gradients(layer, ours.weight, x_in, grad)
            for what, a, b in zip(('input', 'weight'), got, wanted, strict=True):
                error = ((a - b).norm() / b.norm()).item()
                worst[variant] = max(worst.get(variant, 0.0), error)
                if not error <= TOLERANCE:
                    raise ValueError(
                        f'{variant}: gradient of the {what} of {name} is '
                        f'{error:.1e} off the transcription'
                    )
    return worst


def measure(
    arch: str,
    batch: int,
    device: torch.device,
    repeats: int,
    only: list[str] | None = None,
    size: int | None = None,
    tf32: bool = False,
) -> dict:
    """Checks gradients, then measures time and saved bytes of all variants.

    Args:
        arch (str): Key of :data:`ARCHS`.
        batch (int): Batch size.
        device (torch.device): Device of the measurement.
        repeats (int): Timed steps of each variant.
        only (list[str] | None): Variants to measure. The baselines are always included.
        size (int | None): Height and width of the images. Defaults to that of the
            network.
        tf32 (bool): Whether a GPU may round float32 operands. Defaults to False.

    Returns:
        dict: The report that is written as JSON.
    """
    size = size or ARCHS[arch]['size']
    torch.manual_seed(0)
    x = torch.randn(batch, 3, size, size, device=device)
    labels = torch.randint(ARCHS[arch]['classes'], (batch,), device=device)
    names = [*BASES, *(name for name in only or on(device) if name not in BASES)]
    compiled = any(VARIANTS[name].compile for name in names)
    # A layer has one graph per geometry and layout, a network one per recipe. Beyond
    # the limit torch runs them uncompiled. From torch 2.7 it is called recompile_limit,
    # and the old name still works.
    torch._dynamo.config.cache_size_limit = 100
    allow_tf32(False)
    errors = check_gradients(arch, x[:8], compiled)
    allow_tf32(tf32)
    for variant, error in errors.items():
        print(f'gradients, {variant}: at most {error:.1e} off the transcription')

    steps, rows = {}, {}
    for name in names:
        step = make_step(arch, VARIANTS[name], x, labels)
        first = seconds(step, device)
        for _ in range(2):
            step()
        steps[name] = step
        rows[name] = dict(
            first_step_s=first,
            saved_bytes=saved_bytes(step.forward, step.model.parameters()),
            peak_bytes=peak_bytes(step, device),
        )
    times = {
        name: [t / steps[name].repeats for t in calls]
        for name, calls in interleaved(steps, repeats, device).items()
    }
    for name, row in rows.items():
        row['ms'] = statistics.median(times[name]) * 1e3
        row['vs_ref'] = ratio(times[name], times['ref'])
        row['vs_fp'] = ratio(times[name], times['fp eager'])
        row['bytes_vs_fp'] = row['saved_bytes'] / rows['fp eager']['saved_bytes']
        row['images_per_s'] = batch / row['ms'] * 1e3
    if 'fp compiled bf16 channels_last' in times:
        for name, row in rows.items():
            base = times['fp compiled bf16 channels_last']
            row['vs_fp_compiled_bf16'] = ratio(times[name], base)
    return dict(
        machine=machine(device),
        arch=arch,
        batch=batch,
        size=size,
        repeats=repeats,
        tf32=tf32,
        gradient_errors=errors,
        variants=rows,
    )


def table(report: dict) -> str:
    """Formats the report as a table."""
    lines = [
        f'{"":38}{"ms":>8}{"vs ref (quartiles)":>22}{"vs fp":>7}'
        f'{"MB saved":>10}{"vs fp":>7}{"peak MB":>9}'
    ]
    for name, row in report['variants'].items():
        ref = row['vs_ref']
        lines.append(
            f'{name:38}{row["ms"]:8.1f}'
            f'{ref["median"]:8.2f} ({ref["low"]:.2f}-{ref["high"]:.2f}) '
            f'{row["vs_fp"]["median"]:6.2f}{row["saved_bytes"] / 1e6:10.1f}'
            f'{row["bytes_vs_fp"]:7.2f}{row["peak_bytes"] / 1e6:9.0f}'
        )
    return '\n'.join(lines)


def plot(report: dict, path: str) -> None:
    """Plots the time of every variant relative to the reference."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(report['variants'])[::-1]
    ratios = [report['variants'][name]['vs_ref'] for name in names]
    figure = Figure(figsize=(7, 0.3 * len(names) + 1.2), layout='constrained')
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    middle = [r['median'] for r in ratios]
    spread = [
        [r['median'] - r['low'] for r in ratios],
        [r['high'] - r['median'] for r in ratios],
    ]
    colours = ['#0072B2' if name.startswith('ours') else '#999999' for name in names]
    axis.barh(names, middle, xerr=spread, color=colours)
    axis.set_xlabel('time of a training step, relative to ref (median, quartiles)')
    axis.set_title(
        f'{report["arch"]}, batch {report["batch"]}, {report["machine"]["device"]}, '
        f'{report["machine"]["threads"]} threads, {report["machine"]["clock"]}',
        fontsize='medium',
    )
    figure.savefig(path, dpi=150)


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        '--arch', choices=ARCHS, default='resnet20', help='network (resnet20)'
    )
    parser.add_argument(
        '--batch', type=at_least(1), default=128, help='batch size (128)'
    )
    parser.add_argument(
        '--size',
        type=at_least(1),
        help="height and width of the images (default: the network's own)",
    )
    parser.add_argument('--device', default='cpu', help='cpu or cuda (cpu)')
    parser.add_argument(
        '--tf32', action='store_true', help='GPUs may round float32 operands'
    )
    parser.add_argument(
        '--threads', type=at_least(1), default=1, help='threads of torch (1)'
    )
    # Quartiles are of two or more.
    parser.add_argument(
        '--repeats', type=at_least(2), default=15, help='steps of each variant (15)'
    )
    parser.add_argument(
        '--only',
        nargs='*',
        metavar='VARIANT',
        choices=VARIANTS,
        help=f'variants to time beside {" and ".join(BASES)}: {", ".join(VARIANTS)}',
    )
    parser.add_argument(
        '--out',
        type=partial(writable, ending='.json'),
        default='work_dirs/train_step',
        help='writes OUT.json and OUT.png (work_dirs/train_step)',
    )
    args = parser.parse_args()
    if missing := set(args.only or ()) - set(on(torch.device(args.device))):
        parser.error(f'{", ".join(sorted(missing))}: needs --device cuda')
    return args


def main() -> None:
    """Measures, prints and writes the report."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    MMLogger.get_current_instance().setLevel('WARNING')  # not each weight's first value
    device = torch.device(args.device)
    report = measure(
        *(args.arch, args.batch, device, args.repeats, args.only, args.size, args.tf32)
    )
    print(table(report))
    write_json(f'{args.out}.json', report)
    plot(report, f'{args.out}.png')


if __name__ == '__main__':
    main()
