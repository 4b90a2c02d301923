import json
import struct

import numpy as np
import pytest
from networks import EveryOperation, mixed_network, warm_up

from mmirnet.packed import PackedFileError, pack, read, write
from mmirnet.packed.format import OPERATIONS
from mmirnet.runtime import Session, load


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """The bytes of a small packed file without digest: the other checks are seen."""
    path = tmp_path_factory.mktemp('packed') / 'model.safetensors'
    model = warm_up(mixed_network(), 3, 9, 9)
    write(pack(model, (9, 9), list('abcde')), path)
    return without_digest(path.read_bytes())


def without_digest(data):
    header, rest = header_and_rest(data)
    del header['__metadata__']['sha256']
    return join(header, rest)


def header_and_rest(data):
    (size,) = struct.unpack('<Q', data[:8])
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join(header, rest):
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text)) + text + rest


def with_spec(data, change):
    """The file with its network's description changed."""
    header, rest = header_and_rest(data)
    spec = json.loads(header['__metadata__']['mmirnet'])
    change(spec)
    header['__metadata__']['mmirnet'] = json.dumps(spec)
    return join(header, rest)


def with_tensor(data, name, index, value):
    """The file with one number of a tensor changed."""
    header, rest = header_and_rest(data)
    entry = header[name]
    dtype = {'F32': '<f4', 'I8': 'i1', 'U64': '<u8'}[entry['dtype']]
    begin, end = entry['data_offsets']
    array = np.frombuffer(rest[begin:end], dtype).copy()
    array[index] = value
    return join(header, rest[:begin] + array.tobytes() + rest[end:])


def refuse(data, tmp_path, match):
    path = tmp_path / 'bad.safetensors'
    path.write_bytes(data)
    with pytest.raises(PackedFileError, match=match) as error:
        load(path)
    assert str(path) in str(error.value)


def put(*where, value):
    def change(spec):
        for key in where[:-1]:
            spec = spec[key]
        spec[where[-1]] = value

    return change


def swap_operations(spec):
    spec['graph'][1], spec['graph'][2] = spec['graph'][2], spec['graph'][1]


EDGE = dict(
    op='resize_edge', edge='short', size=9, interpolation='bilinear', library='pillow'
)
RESCALE = dict(
    op='rescale', x=0.5, y=2.0, keep_ratio=False, interpolation='area', library='cv2'
)
PAD = dict(
    op='pad',
    width=9,
    height=9,
    divisor=None,
    square=False,
    value=[0],
    mode='constant',
)
BAD_SPECS = {
    'version: 5': put('version', value=5),
    'version: True': put('version', value=True),
    r'input: fields must be': put('input', 'extra', value=1),
    r'input: order must be one of': put('input', 'order', value='hsv'),
    r'input: order must be one of rgb': put('input', 'order', value=[]),
    r"input: order 'grey' does not fit 3": put('input', 'order', value='grey'),
    r'input: read: fields must be': put('input', 'read', value=None),
    r'input: read: library must be': put('input', 'read', 'library', value=['cv2']),
    r'input: read: upright must be': put('input', 'read', 'upright', value=1),
    r'input: steps must be a list': put('input', 'steps', value={}),
    r'input: steps must be a list of at most': put('input', 'steps', value=[0] * 65),
    r'input: steps\[0\]: not an object': put('input', 'steps', 0, value='fit'),
    r"input: steps\[0\]: unknown step 'exec'": put(
        'input', 'steps', 0, 'op', value='exec'
    ),
    r'input: steps\[0\]: unknown step \[': put('input', 'steps', 0, 'op', value=[]),
    r"input: steps\[0\]: fields must be \['cover', 'height'": put(
        'input', 'steps', 0, 'edge', value=1
    ),
    r'input: steps\[0\]: pad must be an integer': put(
        'input', 'steps', 0, 'pad', value=65
    ),
    r'steps\[0\]: width must be an integer in \[1,': put(
        'input', 'steps', 0, value=dict(op='center_crop', width=0, height=9)
    ),
    r"steps\[0\]: pillow has no interpolation 'area'": put(
        'input', 'steps', 0, value=dict(EDGE, interpolation='area')
    ),
    r'steps\[0\]: interpolation must be one of': put(
        'input', 'steps', 0, value=dict(EDGE, interpolation=None)
    ),
    r'steps\[0\]: x must be a number in \(0, 64\]': put(
        'input', 'steps', 0, value=dict(RESCALE, x=1e9)
    ),
    r'steps\[0\]: value must be a list of 1 or 3': put(
        'input', 'steps', 0, value=dict(PAD, value=[1, 2])
    ),
    r'steps\[0\]: width and height go together': put(
        'input', 'steps', 0, value=dict(PAD, height=None)
    ),
    r'head: fields must be': put('head', value=[]),
    r'head: scores must be': put('head', 'scores', value='argmax'),
    r'head: threshold must be': put('head', 'threshold', value='0.5'),
    r'head: topk must be an integer in \[1, 5\]': put('head', 'topk', value=6),
    r'input: height must be an integer': put('input', 'height', value=10**9),
    r'input: height must be an integer in': put('input', 'height', value=True),
    r'input: std must be 3 finite': put('input', 'std', value=[1.0]),
    r'input: std must not be zero': put('input', 'std', value=[0.0, 1.0, 1.0]),
    r'classes: must be': put('classes', value='abcde'),
    r'5 logits do not fit the classes': put('classes', value=['a']),
    r'source: must be a text': put('source', value=7),
    r'graph: must be a list of 1': put('graph', value=[]),
    r'graph\[3\]: not an object': put('graph', 3, value='add'),
    r"graph\[2\]: unknown operation 'eval'": put('graph', 2, 'op', value='eval'),
    r'graph\[2\]: unknown operation \[': put('graph', 2, 'op', value=[]),
    r'graph\[2\]: fields must be': put('graph', 2, 'stride', value=1),
    r'graph\[3\]: stride must be': put('graph', 3, 'stride', value=0),
    r'graph\[3\]: padding must be': put('graph', 3, 'padding', value=3),
    r'graph\[3\]: kernel must be': put('graph', 3, 'kernel', value=1000),
    r'graph\[3\]: signs': put('graph', 3, 'kernel', value=5),
    r'graph\[3\]: binarize_input': put('graph', 3, 'binarize_input', value=1),
    r'graph\[4\]: stride must be': put('graph', 4, 'stride', value=1.0),
    r"graph\[5\]: src '5' is not": put('graph', 5, 'src', value=['5']),
    r'graph\[5\]: src must be a list of 1': put('graph', 5, 'src', value=['3', '3']),
    r'graph\[5\]: affine .* does not fit 3': put('graph', 5, 'src', value=['input']),
    r"graph\[5\]: dst '3' is no new": put('graph', 5, 'dst', value='3'),
    r"graph\[0\]: no tensor 'nowhere.weight'": put('graph', 0, 'dst', value='nowhere'),
    r"graph\[1\]: src '1' is not a value computed": swap_operations,
}


def as_version_1(spec):
    spec['version'] = 1
    del spec['head']
    for name in ('order', 'read', 'steps'):
        del spec['input'][name]


def test_files_of_version_1_are_read(data, tmp_path):
    path = tmp_path / 'old.safetensors'
    path.write_bytes(with_spec(data, as_version_1))
    packed = read(path)
    assert packed.head == dict(scores='softmax', threshold=None, topk=None)
    assert packed.input['order'] == 'rgb'
    assert packed.input['steps'] == [
        dict(op='fit', width=9, height=9, pad=4, cover=1.0)
    ]
    write(packed, tmp_path / 'new.safetensors')
    header, _ = header_and_rest((tmp_path / 'new.safetensors').read_bytes())
    assert json.loads(header['__metadata__']['mmirnet'])['version'] == 2
    assert read(tmp_path / 'new.safetensors').input == packed.input


@pytest.mark.parametrize('value', [{}, [], None, dict(channels=[])])
def test_a_damaged_input_of_version_1_is_refused(data, tmp_path, value):
    def change(spec):
        as_version_1(spec)
        spec['input'] = value

    refuse(with_spec(data, change), tmp_path, 'input: fields must be')


def test_a_bit_that_turned_is_found(data, tmp_path):
    path = tmp_path / 'whole.safetensors'
    (tmp_path / 'earlier.safetensors').write_bytes(data)
    packed = read(tmp_path / 'earlier.safetensors')
    write(packed, path)
    whole = path.read_bytes()
    (header,) = struct.unpack('<Q', whole[:8])
    for at in range(8 + header, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        with pytest.raises(PackedFileError, match='sha256: the file was damaged'):
            read(path)
    refuse(with_spec(whole, put('classes', 0, value='A')), tmp_path, 'sha256')
    path.write_bytes(whole)
    assert read(path).classes == list('abcde')


def test_a_disk_that_is_full_leaves_the_earlier_file(data, tmp_path, monkeypatch):
    path = tmp_path / 'model.safetensors'
    path.write_bytes(data)
    packed = read(path)
    monkeypatch.setattr('os.fsync', lambda number: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(packed, path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == data


def test_steps_and_head_survive_the_file(data, tmp_path):
    def change(spec):
        spec['input'].update(order='bgr', steps=[RESCALE, EDGE, PAD])
        spec['head'] = dict(scores='sigmoid', threshold=0.25, topk=3)

    path = tmp_path / 'model.safetensors'
    path.write_bytes(with_spec(data, change))
    packed = read(path)
    write(packed, path)
    again = read(path)
    assert (again.input, again.head) == (packed.input, packed.head)
    assert again.input['steps'] == [RESCALE, EDGE, PAD]
    assert load(path).packed.head == again.head


@pytest.fixture(scope='module')
def other(tmp_path_factory):
    """The bytes of a packed file with the other operations."""
    path = tmp_path_factory.mktemp('packed') / 'other.safetensors'
    model = warm_up(EveryOperation(), 3, 9, 9)
    packed = pack(model, (9, 9), list('abcde'))
    used = {op['op'] for op in packed.graph}
    used |= {op['op'] for op in pack(mixed_network().eval(), (9, 9)).graph}
    integers = {name for name, op in OPERATIONS.items() if op.version == 4}
    assert used == set(OPERATIONS) - integers  # see test_quantising.py
    write(packed, path)
    return without_digest(path.read_bytes())


def put_in(kind, field, value):
    """Changes one field of the first operation of a kind."""

    def change(spec):
        next(op for op in spec['graph'] if op['op'] == kind)[field] = value

    return change


@pytest.mark.parametrize(
    ('kind', 'field', 'value', 'match'),
    [
        ('binary_conv2d', 'stride', [2, 2, 2], 'stride must be 2 integers'),
        ('binary_conv2d', 'kernel', [3, 32], 'kernel must be 2 integers in .1, 31'),
        ('binary_conv2d', 'padding', [0, 0, 0, 3], 'as large as the window|must be 4'),
        ('binary_conv2d', 'groups', 2, 'groups do not divide the channels'),
        ('binary_conv2d', 'groups', 0, 'groups must be an integer'),
        ('binary_conv2d', 'dilation', [1, 65], 'dilation must be 2 integers'),
        ('conv2d', 'groups', 4, 'does not fit 8 input channels'),
        ('conv2d', 'dilation', True, 'dilation must be an integer'),
        ('conv2d', 'bias', None, 'fields must be'),
        ('clamp', 'low', 7, 'wrong order'),
        ('clamp', 'high', '6', 'high must be a number'),
        ('clamp', 'high', float('nan'), 'high must be a number'),
        ('scale', 'factor', 1e31, 'factor must be a number'),
        ('scale', 'offset', None, 'offset must be a number'),
        ('max_pool2d', 'padding', [0, 0, 2, 0], 'must be 4 integers'),
        ('max_pool2d', 'stride', 1, 'does not fit'),
        ('avg_pool2d', 'include_pad', 0, 'include_pad must be a bool'),
        ('avg_pool2d', 'kernel', 4097, 'kernel must be an integer'),
        ('binary_linear', 'binarize_input', 1, 'binarize_input must be a bool'),
    ],
)
def test_bad_attributes(other, tmp_path, kind, field, value, match):
    refuse(with_spec(other, put_in(kind, field, value)), tmp_path, match)


@pytest.mark.parametrize('match', BAD_SPECS)
def test_bad_descriptions(data, tmp_path, match):

    refuse(with_spec(data, BAD_SPECS[match]), tmp_path, match)


@pytest.mark.parametrize(
    ('name', 'index', 'value', 'match'),
    [
        ('3.exponent', 0, 127, r'graph\[3\]: exponent'),
        ('3.exponent', 0, -128, r'graph\[3\]: exponent'),
        ('3.signs', 3, 2**63, r'graph\[3\]: signs beyond the end'),
        ('0.weight', 0, np.nan, "'0.weight': holds NaN"),
        ('1.affine', 0, np.inf, "'1.affine': holds NaN"),
    ],
)
def test_bad_numbers(data, tmp_path, name, index, value, match):
    refuse(with_tensor(data, name, index, value), tmp_path, match)


@pytest.mark.parametrize('length', [0, 1, 7, 8, 100, 5000, -1])
def test_truncated(data, tmp_path, length):
    refuse(data[:length], tmp_path, 'not a safetensors file')


def test_other_files(data, tmp_path):
    refuse(b'PK\x03\x04' + data, tmp_path, 'not a safetensors file')
    header, rest = header_and_rest(data)
    del header['__metadata__']
    refuse(join(header, rest), tmp_path, 'not a packed network')
    with pytest.raises(FileNotFoundError):
        load(tmp_path / 'missing.safetensors')


def test_shapes_that_disagree(data, tmp_path):
    header, rest = header_and_rest(data)
    header['0.weight']['shape'] = [3, 24, 3, 3]
    refuse(join(header, rest), tmp_path, r'graph\[0\]: weight')


def test_activations_are_bounded(data, tmp_path):
    def change(spec):
        spec['input'].update(height=4096, width=4096)

    refuse(with_spec(data, change), tmp_path, 'activations too large|out of range')


def mutate(data, rng):
    """A file with bytes flipped, cut out, doubled, or numbers replaced."""
    data = bytearray(data)
    (header,) = struct.unpack('<Q', data[:8])
    kind = rng.integers(5)
    # Most of a file is weights, most of the danger is in its header.
    end = 8 + header if rng.random() < 0.8 else len(data)
    at = int(rng.integers(end))
    if kind == 0:
        data[at] = rng.integers(256)
    elif kind == 1:
        data[at] ^= 1 << rng.integers(8)
    elif kind == 2:
        del data[at : at + int(rng.integers(1, 64))]
    elif kind == 3:
        data[at:at] = data[at : at + int(rng.integers(1, 64))]
    else:  # another digit, where there is one: still valid JSON
        digits = [i for i in range(8, end) if 48 <= data[i] < 58] or [at]
        data[digits[rng.integers(len(digits))]] = 48 + rng.integers(10)
    return bytes(data)


def test_ten_thousand_mutated_files(data, other, tmp_path):
    """Each is refused with a clear error, or still is a network that runs."""
    rng = np.random.default_rng(0)
    path = tmp_path / 'mutated.safetensors'
    outcomes = {'refused': 0, 'runs': 0, 'valid': 0}
    for i in range(10_000):
        path.write_bytes(mutate(other if i % 2 else data, rng))
        try:
            packed = read(path)
        except PackedFileError:
            outcomes['refused'] += 1
            continue
        spec = packed.input
        outcomes['valid'] += 1
        if outcomes['valid'] % 5 or spec['height'] * spec['width'] > 10_000:
            continue  # to save time
        engine = Session(packed, threads=1)
        shape = (1, spec['height'], spec['width'], spec['channels'])
        assert len(engine.predict(np.zeros(shape, np.uint8))[0]) > 0
        outcomes['runs'] += 1
    assert min(outcomes.values()) > 100, outcomes
