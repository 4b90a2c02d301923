"""The page that runs packed networks, in headless Chromium: the runtime's own bits."""

import base64
import importlib.util
import json
import re
import sys

import numpy as np
import pytest
import torch
from binary_graphs import layer_tensors, op, packed_network, real
from browser import browser
from int8_networks import int8_network
from networks import EveryOperation, mixed_network, warm_up
from PIL import Image
from small_run import ROOT
from sphinx.application import Sphinx

from mmirnet.datasets import Digits
from mmirnet.packed import pack, read, write
from mmirnet.packed.preparation import prepare
from mmirnet.packed.simulation import Simulation
from mmirnet.runtime import Session, plan

DOCS = ROOT / 'docs'
INDEX = json.loads((ROOT / 'zoo' / 'index.json').read_text())['models']
RESNET20 = 'resnet20_bireal_digits'


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


make_demo = module(DOCS / '_demo' / 'make_demo.py')


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    """The page without the theme around it, in a browser."""
    if reason := make_demo.missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp('demo')
    with browser(tmp_path_factory.mktemp('profile')) as page:
        make_demo.build(folder)
        scripts = ''.join(f'<script src="{s}"></script>' for s in make_demo.SCRIPTS)
        (folder / 'demo.html').write_text(
            '<!doctype html><meta charset="utf-8"><div id="mmirnet-demo"></div>'
            f'<div id="mmirnet-layers"></div>{scripts}'
        )
        page.open((folder / 'demo.html').as_uri())
        page.folder = folder
        yield page


def text(data):
    return base64.b64encode(data).decode()


def in_page(page, network, images, result='text(network.predict(image))'):
    """What the page makes of images: floats (C, H, W), or pixels (H, W, C)."""
    kind = 'Uint8Array' if images.dtype == np.uint8 else 'Float32Array'
    return page.run(f"""(async () => {{
        const bytes = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
        const text = (array) => btoa(
            String.fromCharCode(...new Uint8Array(array.buffer)));
        const network = await {network};
        const images = new {kind}(bytes({text(images.tobytes())!r}).buffer);
        const size = {images[0].size};
        return Array.from({{ length: {len(images)} }}, (_, i) => {{
            const image = images.slice(i * size, (i + 1) * size);
            return {result};
        }});
    }})()""")


def logits_in_page(page, network, images):
    rows = in_page(page, network, images)
    return np.stack([np.frombuffer(base64.b64decode(row), np.float32) for row in rows])


def loaded(packed, tmp_path):
    """The expression that loads a network of a test into the page."""
    path = tmp_path / 'network.safetensors'
    write(packed, path)
    return f'mmirnet.load(bytes({text(path.read_bytes())!r}), bytes(mmirnet.data.wasm))'


def same_bits(one, other):
    np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32))


def test_the_page_shows_an_answer_and_needs_nothing_from_elsewhere(page):
    page.run(f'mmirnet.open({RESNET20!r})')
    answer = page.run("document.querySelector('.demo-answer strong').textContent")
    assert answer == '7'  # the first digit of the test split
    assert page.problems() == []
    here = page.folder.as_uri()
    assert page.requests() and all(url.startswith(here) for url in page.requests())


def test_200_digits_have_the_logits_of_the_runtime(page):
    digits = Digits(split='test', pipeline=[])
    images = np.stack([digits.get_data_info(i)['img'] for i in range(200)])
    # The page has the digits as scikit-learn has them, and resizes them itself.
    network = f'mmirnet.open({RESNET20!r})'
    numbers = np.arange(200, dtype=np.float32)[:, None]
    result = 'text(network.predict(mmirnet.sample(image[0])))'
    rows = in_page(page, network, numbers, result)
    found = np.stack([np.frombuffer(base64.b64decode(r), np.float32) for r in rows])
    session = Session(read(ROOT / 'zoo' / INDEX[RESNET20]['file']), threads=1)
    same_bits(found, session.predict(images))


@pytest.mark.parametrize('name', [model['name'] for model in make_demo.models()])
def test_networks_of_the_zoo_have_the_logits_of_the_runtime(page, name):
    session = Session(read(ROOT / 'zoo' / INDEX[name]['file']), threads=1)
    sizes = [session.input[side] for side in ('height', 'width', 'channels')]
    images = np.random.default_rng(0).integers(0, 256, (4, *sizes), np.uint8)
    found = logits_in_page(page, f'mmirnet.open({name!r})', images)
    same_bits(found, session.predict(images))


def traced(model, size, order='rgb'):
    torch.manual_seed(0)
    packed = pack(warm_up(model(), 3, size, size), (size, size))
    packed.input['order'] = order
    return packed


def form(name, kind='binary_conv2d'):
    """A binary layer with all tensors of its form, behind an activation."""
    rng = np.random.default_rng(0)
    linear = kind == 'binary_linear'
    window = (1, 1, 70) if linear else (3, 3, 70)
    tensors = layer_tensors(rng, name, 66, *window)
    tensors |= dict(bias=real(rng, 66), threshold=real(rng, 70))
    tensors = {f'y.{role}': array for role, array in tensors.items()}
    tensors |= {'p.negative': real(rng, 70), 's.affine': real(rng, 2, 70)}
    fields = {} if linear else dict(kernel=3, stride=1, padding=1)
    tensors['x.weight'] = real(rng, 70, 3, 1, 1)
    graph = [
        op('x', 'conv2d', 'input', stride=1, padding=0),
        op('s', 'affine', 'x'),
        op('p', 'prelu', 's'),
        op('y', kind, 'p', binarize_input=True, **fields),
        op('logits', 'vector', 'y'),
    ]
    return packed_network(graph, tensors, (3, 1, 1) if linear else (3, 4, 5))


NETWORKS = {
    'mixed': lambda: traced(mixed_network, 16),
    'every operation': lambda: traced(EveryOperation, 9, order='bgr'),
    'exponent': lambda: form('exponent'),
    'scale': lambda: form('scale'),
    'terms': lambda: form('terms'),
    'bytes': lambda: int8_network(3, 20, (12, 11), padding=1),
    'bytes of grey images': lambda: int8_network(
        1, 70, (11, 12), 3, stride=2, padding=2
    ),
    'linear scale': lambda: form('scale', 'binary_linear'),
    'linear terms': lambda: form('terms', 'binary_linear'),
}


@pytest.mark.parametrize('name', NETWORKS)
@pytest.mark.parametrize('pixels', [True, False])
def test_every_operation_has_the_bits_of_the_runtime(page, name, pixels, tmp_path):
    packed = NETWORKS[name]()
    rng = np.random.default_rng(0)
    channels, height, width = packed.shapes['input']
    if pixels:
        images = rng.integers(0, 256, (5, height, width, channels), np.uint8)
    else:
        images = rng.normal(size=(5, channels, height, width)).astype(np.float32)
    found = logits_in_page(page, loaded(packed, tmp_path), images)
    wanted = Session(packed, threads=1).predict(images)
    assert len(np.unique(wanted)) > 5
    same_bits(found, wanted)


@pytest.mark.parametrize('dtype', ['bf16', 'fp16'])
def test_files_with_16_bit_floats(page, dtype, tmp_path):
    packed = pack(warm_up(mixed_network(), 3, 16, 16), (16, 16), float_dtype=dtype)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    found = logits_in_page(page, loaded(packed, tmp_path), images)
    same_bits(found, Session(packed, threads=1).predict(images))


def test_multiply_add_rounds_once(page, tmp_path):
    """Also where the exact value lies next to the middle of two floats."""
    tiny = 2.0**-23
    rows = [
        (
            sign * 2.0**-24 * (1 + tiny) * scale,
            1 - tiny,
            sign * (1 + odd * tiny) * scale,
        )
        for sign in (1, -1)
        for odd in (0, 1, 2, 3)
        for scale in (1, 2.0**-100, 2.0**-125, 2.0**100)
    ]
    rng = np.random.default_rng(0)
    rows += rng.normal(size=(32, 3)).tolist()
    x, slope, offset = np.array(rows, np.float32).T
    tensors = {'y.affine': np.stack([slope, offset])}
    packed = packed_network([op('y', 'affine', 'input')], tensors, (len(rows), 1, 1))
    images = x.reshape(1, -1, 1, 1)
    wanted = Session(packed, threads=1).predict(images)
    twice = x.astype(np.float64) * slope + offset
    assert (twice.astype(np.float32) != wanted).sum() >= 4
    same_bits(logits_in_page(page, loaded(packed, tmp_path), images), wanted)


def test_pictures_show_the_bits(page, tmp_path):
    packed = traced(mixed_network, 16)
    rng = np.random.default_rng(0)
    image = rng.normal(size=(1, 3, 16, 16)).astype(np.float32)
    layers = [o for o in packed.graph if o['op'].startswith('binary_')]
    values = {}

    class Watched(Simulation):
        def operation(self, index, *inputs):
            values[self.graph[index]['dst']] = inputs[0].numpy()[0]
            return super().operation(index, *inputs)

    with torch.no_grad():
        Watched(packed)(torch.from_numpy(image))
    (found,) = in_page(
        page,
        loaded(packed, tmp_path),
        image,
        """(() => {
            network.predict(image);
            return network.layers.map((layer) => {
                const [bits, value] = [[], network.activations(layer)];
                const { filters, height, width, channels, bit } = layer.signs;
                for (let o = 0; o < filters; ++o)
                    for (let v = 0; v < height; ++v)
                        for (let u = 0; u < width; ++u)
                            for (let c = 0; c < channels; ++c)
                                bits.push(bit(o, v, u, c));
                const [depth, rows, columns] = layer.shape;
                const activations = [];
                for (let c = 0; c < depth; ++c)
                    for (let y = 0; y < rows; ++y)
                        for (let x = 0; x < columns; ++x)
                            activations.push(value(c, y, x));
                return { name: layer.name, bits, activations };
            });
        })()""",
    )
    assert [layer['name'] for layer in found] == [o['dst'] for o in layers]
    assert {o['binarize_input'] for o in layers} == {True, False}
    for layer, operation in zip(found, layers, strict=True):
        assert layer['bits'] == packed.signs(operation).ravel().tolist()
        wanted = values[operation['dst']]
        if operation['binarize_input']:
            assert layer['activations'] == (wanted >= 0).astype(int).ravel().tolist()
        else:
            np.testing.assert_allclose(
                layer['activations'], wanted.ravel(), rtol=1e-5, atol=1e-5
            )


def how(interpolation, library):
    return dict(interpolation=interpolation, library=library)


PILLOW, CV2 = how('bilinear', 'pillow'), how('bilinear', 'cv2')
PADDED = dict(divisor=None, square=False, value=[7], mode='constant')
STEPS = [
    [dict(op='fit', width=32, height=32, pad=4, cover=1.0)],
    [dict(op='fit', width=32, height=24, pad=0, cover=8 / 7)],
    [dict(op='fit', width=69, height=54, pad=4, cover=1.0)],
    [
        dict(op='resize_edge', edge='short', size=37, **PILLOW),
        dict(op='center_crop', width=32, height=32),
    ],
    [dict(op='resize_edge', edge='long', size=80, **how('bicubic', 'pillow'))],
    [
        dict(op='resize', width=40, height=36, keep_ratio=True, **CV2),
        dict(op='pad', width=48, height=48, **PADDED),
    ],
    [
        dict(op='resize', width=40, height=36, keep_ratio=False, **how('area', 'cv2')),
        dict(
            op='pad', width=None, height=None, **PADDED | dict(mode='reflect', square=1)
        ),
    ],
    [dict(op='efficientnet_crop', size=32, padding=8, **how('bicubic', 'cv2'))],
    [dict(op='rescale', x=0.7, y=0.5, keep_ratio=False, **how('lanczos', 'pillow'))],
    [dict(op='rescale', x=1.7, y=1.5, keep_ratio=True, **how('lanczos', 'cv2'))],
    [dict(op='resize', width=20, height=31, keep_ratio=False, **how('nearest', 'cv2'))],
    [
        dict(
            op='resize', width=9, height=9, keep_ratio=False, **how('hamming', 'pillow')
        )
    ],
]


@pytest.mark.parametrize('order', ['rgb', 'grey'])
@pytest.mark.parametrize('steps', STEPS, ids=lambda steps: steps[0]['op'])
def test_photographs_are_prepared_as_the_file_says(page, steps, order):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8))
    photograph = np.asarray(coarse.resize((67, 51), Image.Resampling.BICUBIC))
    pixels = (
        photograph
        if order == 'rgb'
        else np.asarray(Image.fromarray(photograph).convert('L'))[..., None]
    )
    wanted = prepare(pixels, steps)
    height, width, channels = wanted.shape
    spec = dict(order=order, width=width, height=height, channels=channels)
    spec |= dict(steps=steps, read=dict(float=False))
    found = page.run(f"""(() => {{
        const data = Uint8Array.from(atob({text(photograph.tobytes())!r}), (c) =>
            c.charCodeAt(0));
        const image = {{ width: 67, height: 51, channels: 3, data }};
        return Array.from(mmirnet.prepare(image, {json.dumps(spec)}));
    }})()""")
    difference = np.abs(np.array(found) - wanted.ravel().astype(int))
    # Libraries round intermediate values; Pillow's grey may differ by one already.
    assert difference.max() <= (1 if order == 'rgb' else 2)


def shown(page):
    """What the page says once it has drawn the next frame."""
    return page.run("""(async () => {
        const frame = () => new Promise(requestAnimationFrame);
        await frame();
        await frame();
        const [answer, logits, problem] = ['answer', 'logits', 'problem'].map(
            (name) => document.querySelector(`.demo-${name}`).textContent);
        return { answer, logits, problem };
    })()""")


def choose(page, path):
    """Opens a file as a reader does, and waits until the page has said something."""
    page.run("document.querySelector('.demo-answer').textContent = ''")
    node = page.call(
        'Runtime.evaluate', expression="document.getElementById('demo-file')"
    )['result']['objectId']
    page.call('DOM.setFileInputFiles', files=[str(path)], objectId=node)
    page.run("""new Promise((done) => {
        const said = () => document.querySelector('.demo-answer').textContent
            || document.querySelector('.demo-problem').textContent;
        const look = () => (said() ? done() : setTimeout(look, 10));
        look();
    })""")
    return shown(page)


def press(page, *keys):
    for key in keys:
        page.call('Input.dispatchKeyEvent', type='keyDown', key=key)
        page.call('Input.dispatchKeyEvent', type='keyUp', key=key)


def test_digits_are_drawn_with_keyboard_and_mouse(page):
    page.run("document.querySelector('.demo-pad').focus()")
    press(page, 'Delete')
    empty = shown(page)
    press(page, *['ArrowUp'] * 10, ' ', *['ArrowDown'] * 20, ' ')
    one = shown(page)
    assert one['answer'].startswith('1') and one['logits'] != empty['logits']
    press(page, 'Delete')
    assert shown(page) == empty
    left, top = page.run("""(() => {
        const box = document.querySelector('.demo-pad').getBoundingClientRect();
        return [box.left, box.top];
    })()""")
    points = [(150, 215), (150, 40), (60, 150), (200, 150), (200, 150)]
    kinds = ['mousePressed', *['mouseMoved'] * 3, 'mouseReleased']
    for kind, (x, y) in zip(kinds, points, strict=True):
        where = dict(x=left + x, y=top + y, button='left', buttons=1, clickCount=1)
        page.call('Input.dispatchMouseEvent', type=kind, **where)
    assert shown(page)['answer'].startswith('4')


def test_a_photograph_is_classified_and_another_file_refused(page, tmp_path):
    digits = Digits(split='test', pipeline=[])
    image = digits.get_data_info(1)['img']
    Image.fromarray(image).save(tmp_path / 'digit.png')
    said = choose(page, tmp_path / 'digit.png')
    assert said['problem'] == ''
    session = Session(read(ROOT / 'zoo' / INDEX[RESNET20]['file']), threads=1)
    assert said['answer'].startswith(str(session.predict(image[None])[0].argmax()))
    (tmp_path / 'text.png').write_text('no image')
    assert 'could not be decoded' in choose(page, tmp_path / 'text.png')['problem']


def test_what_does_not_fit_is_named(page):
    load = f'mmirnet.open({RESNET20!r}).then((n) => n.predict(new Uint8Array(5)))'
    message = page.run(f'{load}.then(() => "", (error) => error.message)')
    assert message == 'an image has 3 x 32 x 32 values, not 5'
    call = f"mmirnet.open({RESNET20!r}).then((n) => n.runtime.call('set_output', 99))"
    message = page.run(f'{call}.then(() => "", (error) => error.message)')
    assert message == 'no such tensor'


def test_the_page_shows_binary_networks_of_its_data_sets(tmp_path, monkeypatch):
    (tmp_path / 'zoo').mkdir()
    binary = form('exponent')
    tensors = {'y.weight': np.ones((2, 3), np.float32)}
    real_one = packed_network([op('y', 'linear', 'input')], tensors, (3, 1, 1))
    write(binary, tmp_path / 'zoo' / 'binary')
    write(real_one, tmp_path / 'zoo' / 'real')
    listed = [
        ('a', 'CIFAR-10 (JPEG)', 'binary'),
        ('b', 'CIFAR-10', 'real'),
        ('c', 'ImageNet-1k', 'binary'),
        ('d', 'digits', 'binary'),
    ]
    metrics = {'accuracy/top1': 90.0}
    entries = {
        name: dict(dataset=dataset, file=file, bytes=9, metrics=metrics)
        for name, dataset, file in listed
    }
    (tmp_path / 'zoo' / 'index.json').write_text(json.dumps(dict(models=entries)))
    monkeypatch.setattr(make_demo, 'ROOT', tmp_path)
    assert [model['name'] for model in make_demo.models()] == ['d', 'a']


def test_the_plan_knows_the_limits_of_the_runtime():
    script = (DOCS / '_demo' / 'network.js').read_text()
    stated = dict(re.findall(r'const ([A-Z_]+) = (\d+);', script))
    names = ['ALIGNMENT', 'GAP', 'FLOAT_LANES', 'WORD', 'MAX_BINARY_KERNEL']
    assert stated == {name: str(getattr(plan, name)) for name in names}


def test_without_emscripten_the_page_is_left_out(tmp_path, monkeypatch, capsys):
    conf = module(DOCS / 'conf.py')
    monkeypatch.setenv('PATH', '')
    source = tmp_path / 'docs'
    source.mkdir()
    (source / 'demo.md').write_text('# Demo\n')
    front = (DOCS / 'index.md').read_text().splitlines(keepends=True)
    leading = [line for line in front if 'demo' in line]
    assert len(leading) == 2
    (source / 'index.md').write_text(
        '# Front\n\n{}\n```{{toctree}}\n{}page\n```\n'.format(*leading)
    )
    (source / 'page.md').write_text('# Page\n\n[Demo](./demo.md)\n')
    app = Sphinx(
        source,
        None,
        tmp_path / 'site',
        tmp_path / 'doctrees',
        'html',
        dict(extensions=['myst_parser']),
        warningiserror=True,
        status=None,
        warning=sys.stderr,
    )
    conf.build_demo(app)
    app.build()
    assert app.statuscode == 0
    assert (tmp_path / 'site' / 'index.html').is_file()
    assert not (tmp_path / 'site' / 'demo.html').exists()
    assert (
        'left out: there is no emcc; apt-get install emscripten'
        in capsys.readouterr().err
    )
