"""Times the 1-bit runtime and other runtimes on the same network shape.

All candidates alternate in one process, so that noise affects all of them alike. The
script prints medians. It names the runtimes that are not installed and skips them.
With --only-ours it times the 1-bit runtime alone, as on a Raspberry Pi.
"""

import argparse
import copy
import importlib.util
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from functools import partial
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('MKL_NUM_THREADS', '1')

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from reports import write_json
from torch import nn

import mmirnet
from mmirnet.analysis.cost.measure import interleaved
from mmirnet.apis.command_line import at_least, writable
from mmirnet.engine.speed import device_name
from mmirnet.packed import pack, quantise
from mmirnet.packed.onnx import to_onnx
from mmirnet.runtime import Session, _native, instruction_sets

BLOCKS = ((64, 56), (128, 28), (256, 14), (512, 7))
CONFIGS = Path(__file__).parents[2] / 'configs' / 'irnet'
RECIPES = 'IR-Net', 'XNOR-Net', 'ReActNet', 'AdaBin'
Candidates = dict[str, Callable[[], object]]


def alternate(candidates: Candidates, rounds: int, seconds: float) -> dict[str, float]:
    """Returns median seconds of each candidate over `rounds` alternating rounds."""
    interleaved(candidates, 3)
    times = interleaved(candidates, rounds, turn=seconds, now=time.perf_counter)
    return {name: statistics.median(values) for name, values in times.items()}


class Block(nn.Module):
    """Half a Bi-Real block: hardtanh(bn(conv(x)) + x)."""

    def __init__(self, channels: int, conv: type = nn.Conv2d):
        super().__init__()
        self.conv = conv(channels, channels, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.Hardtanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Computes the block; the shape does not change."""
        return self.act(self.bn(self.conv(x)) + x)


class Whole(nn.Module):
    """All parts of an MMPretrain classifier from image to logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.backbone, self.neck, self.head = model.backbone, model.neck, model.head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits."""
        return self.head(self.neck(self.backbone(x)))


def resnet18(conv: str | None, **options) -> nn.Module:
    """Builds ResNet-18 for ImageNet with Bi-Real structure, binary or not."""
    init_default_scope('mmpretrain')
    conv_cfg = None if conv is None else dict(type=conv, **options)
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='IRResNet', depth=18, conv_cfg=conv_cfg),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='BNLinearClsHead', num_classes=1000, in_channels=512),
        )
    )
    return Whole(model).eval()


# --------------------------------------------------------------------------
# Candidates: each yields a name and a function without arguments.


def torch_candidates(model: nn.Module, x: torch.Tensor) -> Iterator[tuple]:
    """Yields eager and compiled, fp32 and bf16, all in channels-last memory format."""
    model = model.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)

    def inference(module: nn.Module, value: torch.Tensor):
        def run():
            with torch.inference_mode():
                return module(value)

        return run

    yield 'torch fp32 eager', inference(model, x)
    options = {'freezing': True, 'layout_optimization': True}
    with torch.no_grad():
        compiled = torch.compile(model, options=options)
        compiled(x)
    yield 'torch fp32 compiled', no_grad(compiled, x)
    half = copy.deepcopy(model).bfloat16()
    yield 'torch bf16 eager', inference(half, x.bfloat16())


def no_grad(module: Callable, value: torch.Tensor):
    """Wraps a call in no_grad, as inference mode would trigger a recompilation."""

    def run():
        with torch.no_grad():
            return module(value)

    return run


def torch_int8_block(block: Block, x: torch.Tensor) -> Iterator[tuple]:
    """Builds a static int8 block of torch's quantised operators; saturation clamps."""
    scale = block.bn.weight / torch.sqrt(block.bn.running_var + block.bn.eps)
    weight = (block.conv.weight * scale[:, None, None, None]).detach()
    bias = (block.bn.bias - block.bn.running_mean * scale).detach()
    steps = weight.abs().amax((1, 2, 3)) / 127
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    for engine in ('onednn', 'x86'):
        if engine not in torch.backends.quantized.supported_engines:
            continue
        torch.backends.quantized.engine = engine
        quantised = torch.quantize_per_channel(weight, steps, zeros, 0, torch.qint8)
        packed = torch.ops.quantized.conv2d_prepack(
            quantised, bias, [1, 1], [1, 1], [1, 1], 1
        )
        value = torch.quantize_per_tensor(x, 1 / 127, 128, torch.quint8).contiguous(
            memory_format=torch.channels_last
        )

        def run(engine=engine, packed=packed, value=value):
            torch.backends.quantized.engine = engine
            with torch.no_grad():
                y = torch.ops.quantized.conv2d(value, packed, 4 / 127, 128)
                return torch.ops.quantized.add(y, value, 1 / 127, 128)

        yield f'torch int8 {engine}', run


def onnx_block(block: Block, shape: tuple[int, ...]) -> 'onnx.ModelProto':  # noqa: F821
    """Exports the float block to ONNX."""
    from onnx import helper, numpy_helper

    bn = block.bn
    names = 'weight', 'gamma', 'beta', 'mean', 'var', 'low', 'high'
    values = block.conv.weight, bn.weight, bn.bias, bn.running_mean, bn.running_var
    values = [value.detach().numpy() for value in values]
    values += [np.float32(-1), np.float32(1)]
    nodes = [
        helper.make_node('Conv', ['input', 'weight'], ['a'], pads=[1] * 4),
        helper.make_node('BatchNormalization', ['a', *names[1:5]], ['b']),
        helper.make_node('Add', ['b', 'input'], ['c']),
        helper.make_node('Clip', ['c', 'low', 'high'], ['output']),
    ]
    ends = [
        [helper.make_tensor_value_info(name, 1, shape)] for name in ('input', 'output')
    ]
    weights = [
        numpy_helper.from_array(value, name)
        for name, value in zip(names, values, strict=True)
    ]
    graph = helper.make_graph(nodes, 'block', *ends, weights)
    opset = helper.make_opsetid('', 17)
    return helper.make_model(graph, ir_version=9, opset_imports=[opset])


def onnx_candidates(
    make: Callable[[], 'onnx.ModelProto'],  # noqa: F821
    x: np.ndarray,
    folder: Path,
) -> Iterator[tuple]:
    """Yields ONNX Runtime in fp32 and, after its pre-processing, static int8."""
    if importlib.util.find_spec('onnxruntime') is None:
        print('onnxruntime is not installed: left out', file=sys.stderr)
        return
    import onnx
    import onnxruntime as ort
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
        shape_inference,
    )

    def session(path: Path):
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        runner = ort.InferenceSession(str(path), options, ['CPUExecutionProvider'])
        name = runner.get_inputs()[0].name
        return lambda: runner.run(None, {name: x})

    class Calibration(CalibrationDataReader):
        def __init__(self):
            self.batches = iter(
                {'input': np.random.randn(*x.shape).astype('f4')} for _ in range(4)
            )

        def get_next(self):
            return next(self.batches, None)

    paths = {name: folder / f'{name}-{len(x)}.onnx' for name in ('fp32', 'pre', 'int8')}
    onnx.save(make(), str(paths['fp32']))
    yield 'ONNX Runtime fp32', session(paths['fp32'])
    shape_inference.quant_pre_process(str(paths['fp32']), str(paths['pre']))
    # Unsigned activations and signed weights, as ONNX Runtime's VNNI kernels require.
    # With the default of two signed types, convolutions stay in fp32.
    quantize_static(
        str(paths['pre']),
        str(paths['int8']),
        Calibration(),
        QuantFormat.QOperator,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    yield 'ONNX Runtime int8', session(paths['int8'])


def openvino_candidates(packed, x: np.ndarray, folder: Path) -> Iterator[tuple]:
    """Yields OpenVINO in fp32, bf16 and, through NNCF, int8."""
    for name in ('openvino', 'nncf', 'onnx'):
        if importlib.util.find_spec(name) is None:
            print(f'{name} is not installed: OpenVINO left out', file=sys.stderr)
            return
    import nncf
    import onnx
    import openvino as ov

    path = folder / f'openvino-{len(x)}.onnx'
    onnx.save(to_onnx(packed), str(path))
    core = ov.Core()
    model = core.read_model(path)
    model.reshape(list(x.shape))

    def compiled(network, precision: str):
        request = core.compile_model(
            network,
            'CPU',
            {
                'INFERENCE_NUM_THREADS': 1,
                'NUM_STREAMS': 1,
                'INFERENCE_PRECISION_HINT': precision,
            },
        ).create_infer_request()
        request.set_input_tensor(ov.Tensor(x, shared_memory=True))
        return request.infer

    yield 'OpenVINO fp32', compiled(model, 'f32')
    try:
        yield 'OpenVINO bf16', compiled(model, 'bf16')
    except RuntimeError as error:  # as with ONEDNN_MAX_CPU_ISA=AVX2
        print(f'OpenVINO bf16 left out: {error}', file=sys.stderr)
    batches = [np.random.randn(*x.shape).astype('f4') for _ in range(4)]
    int8 = nncf.quantize(model, nncf.Dataset(batches))
    yield 'OpenVINO int8', compiled(int8, 'f32')


# --------------------------------------------------------------------------
# Measurements.


def parts_of(recipe: str, channels: int) -> tuple[dict, list]:
    """Returns what a recipe's block has beside IR-Net's: in its epilogue, and terms."""
    ones = np.ones(channels, np.float32)
    slopes = np.stack([0.1 * ones, 0.25 * ones, ones, -0.1 * ones])  # between shifts
    return {
        'IR-Net': ({}, []),
        'XNOR-Net': (dict(scale=0.3 * ones), []),
        'ReActNet': (
            dict(scale=0.3 * ones, activation=slopes, threshold=0.1 * ones),
            [],
        ),
        'AdaBin': (
            dict(scale=0.3 * ones, activation=slopes, threshold=0.1 * ones),
            [0.01 * ones, np.float32([1.1, 0.2])],
        ),
    }[recipe]


def engine_block(
    channels: int, size: int, isa: str, only_bits: bool, recipe: str = 'IR-Net'
) -> '_native.Network':
    """Returns one block, fused as in the network; ``time_operations`` runs it.

    The inputs are packed signs and the float stream. The outputs are the stream, in
    place, and its packed signs: convolution, BatchNorm, addition, Hardtanh, sign and
    packing in one pass. With `only_bits`, only a threshold follows the inner loop of
    XOR and popcount.
    """
    kinds = _native.Kind
    floats = -(-(4 * size * size * channels + 256) // 64) * 64
    bits = -(-(8 * size * (size + 2) * (channels // 64) + 256) // 64) * 64
    network = _native.Network(isa, '', 1, floats + 2 * bits)
    shape = size, size, channels
    stream = network.add_tensor(kinds.FLOATS, *shape, 0, 0)
    source = network.add_tensor(kinds.BITS, *shape, 1, floats)
    packed = network.add_tensor(kinds.BITS, *shape, 1, floats + bits)
    signs = np.random.default_rng(0).integers(
        0, 2**63, (channels, 9, channels // 64), np.uint64
    )
    alpha = np.full(channels, 0.01, np.float32)
    ends = (-1, -1, packed) if only_bits else (stream, stream, packed)
    parts, terms = parts_of(recipe, channels)
    epilogue = _native.EpilogueSpec(alpha, alpha, -1.0, 1.0, *ends, **parts)
    window = _native.Window([3, 3], [1, 1], [1, 1, 1, 1], [1, 1])
    network.add_binary_conv(source, window, signs, epilogue, *terms)
    return network


def seconds_of(network: '_native.Network', repeats: int = 200) -> float:
    """Returns median seconds of a block."""
    return float(np.median(network.time_operations(repeats)))


def warm_up(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Sets running statistics that fit the data, as after training."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    model.train()
    with torch.no_grad():
        model(x)
    return model.eval()


def show(title: str, times: dict[str, float], ours: str) -> None:
    """Prints a table of microseconds and of ratios to our runtime."""
    print(f'\n{title}')
    for name, seconds in sorted(times.items(), key=lambda item: item[1]):
        ratio = seconds / times[ours]
        print(f'  {name:24s} {1e6 * seconds:10.1f} us {ratio:8.2f}x')
    for kind in ('fp32', 'int8'):
        others = [t for name, t in times.items() if kind in name]
        if others:
            print(
                f'  ours against the fastest {kind}: {min(others) / times[ours]:.2f}x'
            )
            for name in (name for name in times if name.startswith(f'{ours}, ')):
                print(f'  {name} against it: {min(others) / times[name]:.2f}x')


def measure_blocks(args, folder: Path) -> dict[str, dict[str, float]]:
    """Compares binary blocks with float and int8 ones; reports the share of peak."""
    report = {}
    peak = max(_native.peak_rate() for _ in range(5))
    print(f'peak of the inner loop: {peak / 1e12:.2f} T multiply-accumulates/s')
    for channels, size in BLOCKS:
        x = torch.randn(1, channels, size, size).clamp(-1, 1)
        block = warm_up(Block(channels), x)
        candidates: Candidates = {}
        if not args.only_ours:
            candidates |= dict(torch_candidates(block, x))
            candidates |= dict(torch_int8_block(block, x))
            graph = partial(onnx_block, block, tuple(x.shape))
            candidates |= dict(onnx_candidates(graph, x.numpy(), folder))
        isas = instruction_sets()[:-1]
        samples = {f'runtime {isa}': [] for isa in isas}
        others, bare = [], []
        for _ in range(args.rounds):
            for isa in isas:
                samples[f'runtime {isa}'].append(
                    seconds_of(engine_block(channels, size, isa, False))
                )
            bare.append(seconds_of(engine_block(channels, size, isas[0], True)))
            others.append(alternate(candidates, 1, 0.05))
        times = {name: statistics.median(values) for name, values in samples.items()}
        times |= {n: statistics.median(o[n] for o in others) for n in candidates}
        title = f'block {channels} x {size} x {size}, batch 1'
        report[title] = times
        show(title, times, f'runtime {isas[0]}')
        if peak:
            # Rows outside the image are skipped, so they are not counted.
            work = channels**2 * size * 3 * (3 * size - 2)
            share = work / statistics.median(bare) / peak
            print(f'  bare loop: {100 * share:.0f} % of the peak')
    return report


def measure_recipes(args) -> dict[str, dict[str, float]]:
    """Compares the blocks of other recipes with IR-Net's, alternating."""
    report = {}
    for isa in instruction_sets()[:-1]:
        for channels, size in BLOCKS:
            blocks = {
                name: engine_block(channels, size, isa, False, name) for name in RECIPES
            }
            rounds = [
                {name: seconds_of(block, 50) for name, block in blocks.items()}
                for _ in range(args.rounds)
            ]
            title = f'{isa}, block {channels} x {size} x {size}, batch 1'
            print(f'\n{title}')
            report[title] = {}
            for name in RECIPES:
                seconds = statistics.median(times[name] for times in rounds)
                report[title][name] = seconds
                ratio = statistics.median(t[name] / t['IR-Net'] for t in rounds)
                print(f'  {name:24s} {1e6 * seconds:10.1f} us {ratio:8.2f}x')
    return report


def resnet20() -> nn.Module:
    """Builds the binary ResNet-20 of CIFAR-10."""
    config = Config.fromfile(CONFIGS / 'resnet20_bireal_cifar10.py')
    init_default_scope('mmpretrain')
    return Whole(MODELS.build(config.model)).eval()


def runtimes(networks: dict[str, tuple]) -> Candidates:
    """Returns a candidate for each network, in each instruction set."""
    return {
        f'runtime {isa}{name}': partial(Session(packed, 1, isa).predict, images)
        for isa in instruction_sets()[:-1]
        for name, (packed, images) in networks.items()
    }


def measure_small(args) -> dict[str, dict[str, float]]:
    """Times one image through ResNet-20, with float and with 8-bit ends."""
    sample = torch.randint(256, (4, 3, 32, 32)).float()
    packed = pack(warm_up(resnet20(), sample), (32, 32))
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3), np.uint8)
    networks = {
        '': (packed, pixels),
        ', 8-bit ends': (quantise(packed, [sample.numpy()]), pixels),
    }
    title = 'ResNet-20, 32x32, one image'
    times = alternate(runtimes(networks), args.rounds, 0.2)
    show(title, times, next(iter(times)))
    return {title: times}


def measure_network(args, folder: Path) -> dict[str, dict[str, float]]:
    """Compares ResNet-18 with one thread, and measures the runtime's scaling."""
    report = {}
    sample = torch.randint(256, (4, 3, 224, 224)).float()
    float_model = warm_up(resnet18(None), sample)
    binary = pack(warm_up(resnet18('IRConv2d'), sample))
    one_bit = pack(warm_up(resnet18('IRConv2d', binarize_input=False), sample))
    images = [sample.numpy()]
    ends = quantise(binary, images)
    one_bit_int8 = quantise(one_bit, images, activations=True)
    packed = pack(float_model)
    for batch in args.batches:
        x = torch.randn(batch, 3, 224, 224)
        array = x.numpy()
        pixels = np.random.default_rng(0).integers(
            0, 256, (batch, 224, 224, 3), np.uint8
        )
        networks = {
            '': (binary, array),
            ', 8-bit ends': (ends, pixels),
            ', 1/32': (one_bit, array),
            ', 1/32, 8-bit': (one_bit_int8, pixels),
        }
        candidates = runtimes(networks)
        ours = next(iter(candidates))
        for name in ('', ', 8-bit ends'):
            network, given = networks[name]
            two = Session(network, 2, instruction_sets()[0])  # as `ours`
            candidates[f'runtime, 2 threads{name}'] = partial(two.predict, given)
        if not args.only_ours:
            candidates |= dict(torch_candidates(float_model, x))
            candidates |= dict(onnx_candidates(partial(to_onnx, packed), array, folder))
            candidates |= dict(openvino_candidates(packed, array, folder))
        times = alternate(candidates, args.rounds, 0.2)
        title = f'ResNet-18, 224x224, batch {batch}'
        report[title] = times
        show(title, times, ours)
        for name in ('', ', 8-bit ends'):
            ratio = times[f'{ours}{name}'] / times[f'runtime, 2 threads{name}']
            print(f'  two threads against one{name}: {ratio:.2f}x')
    return report


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--what',
        choices=('blocks', 'recipes', 'small', 'network', 'all'),
        default='all',
        help='blocks, those of other recipes, ResNet-20, ResNet-18, or all (all)',
    )
    parser.add_argument(
        '--batches',
        type=at_least(1),
        nargs='+',
        default=[1, 8],
        help='batch sizes of ResNet-18 (1 8)',
    )
    parser.add_argument(
        '--rounds', type=at_least(1), default=10, help='turns of each candidate (10)'
    )
    parser.add_argument(
        '--only-ours', action='store_true', help='time no other runtime'
    )
    parser.add_argument(
        '--out', type=writable, help='JSON file with the median seconds'
    )
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        if args.what in ('blocks', 'all'):
            seconds |= measure_blocks(args, Path(folder))
        if args.what in ('recipes', 'all'):
            seconds |= measure_recipes(args)
        if args.what in ('small', 'all'):
            seconds |= measure_small(args)
        if args.what in ('network', 'all'):
            seconds |= measure_network(args, Path(folder))
    if args.out:
        machine = dict(
            date=date.today().isoformat(),
            cpu=device_name(torch.device('cpu')),
            instruction_sets=instruction_sets(),
            versions=dict(mmirnet=mmirnet.__version__, torch=torch.__version__),
        )
        print(write_json(args.out, dict(machine, seconds=seconds)))


if __name__ == '__main__':
    main()
