import os
import subprocess
import sys

import numpy as np
import pytest
from image_kinds import BAD, encoded
from networks import mixed_network, warm_up
from small_run import TOOLS, environment
from warm_python import python

from mmirnet.errors import ConfigError
from mmirnet.packed import pack, write
from mmirnet.packed.preparation import default
from mmirnet.runtime import Session, load, load_image, normalise, predictions
from mmirnet.runtime.predictions import (
    Failures,
    classify,
    image_files,
    predicted,
    report,
    result,
    sigmoid,
    top_k,
)

SOFTMAX = dict(scores='softmax', threshold=None, topk=None)


@pytest.fixture(scope='module')
def network():
    return warm_up(mixed_network(), 3, 9, 9)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Good images, with bad ones between them."""
    folder = tmp_path_factory.mktemp('images')
    rng = np.random.default_rng(0)
    for name in ('a.png', 'c.PNG', 'e [1].png'):
        noise = rng.integers(0, 256, (9, 9, 3), np.uint8)
        (folder / name).write_bytes(encoded(noise, 'PNG'))
    (folder / 'b.jpg').write_bytes(BAD['text'])
    (folder / 'd.jpg').write_bytes(BAD['half a progressive JPEG'])
    (folder / 'notes.txt').write_text('no image')
    (folder / '._a.png').write_bytes(b'\0' * 10)
    (folder / 'deeper').mkdir()
    (folder / 'deeper' / 'f.png').write_bytes((folder / 'a.png').read_bytes())
    return folder


def packed(network, **changes):
    return pack(network, (9, 9), **changes)


def test_a_bgr_network_gets_bgr_of_rgb_images(network):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 9, 9, 3), np.uint8)
    image = default(3, 9, 9)
    rgb = Session(packed(network, image=image), 1)
    bgr = Session(packed(network, image=image | dict(order='bgr')), 1)
    np.testing.assert_array_equal(bgr.predict(pixels), rgb.predict(pixels[..., ::-1]))
    # Floats are what the network takes.
    floats = np.stack([normalise(p, bgr.input) for p in pixels])
    np.testing.assert_array_equal(bgr.predict(floats), bgr.predict(pixels))


def test_images_that_were_resized_as_floats(network, folder):
    image = default(3, 9, 9)
    image['read'] = dict(image['read'], float=True)
    engine = Session(packed(network, image=image), 1)
    pixels = load_image(folder / 'a.png', engine.input)
    assert pixels.dtype == np.float32
    ((_, got),) = classify(engine, [folder / 'a.png'])
    plain = Session(packed(network), 1)
    ((_, wanted),) = classify(plain, [folder / 'a.png'])
    np.testing.assert_array_equal(got, wanted)  # of whole numbers it is the same


def test_floats_between_whole_numbers(network, folder):
    image = default(3, 9, 9)
    image['read'] = dict(image['read'], float=True)
    how = dict(keep_ratio=False, interpolation='bilinear', library='cv2')
    image['steps'] = [
        dict(op='resize', width=7, height=7, **how),
        dict(op='resize', width=9, height=9, **how),
    ]
    image |= dict(mean=[90.0] * 3, std=[50.0] * 3)
    engine = Session(packed(network, image=image), 1)
    pixels = load_image(folder / 'a.png', engine.input)
    assert (pixels != pixels.round()).any()
    floats = normalise(pixels, engine.input)
    assert floats.shape == (3, 9, 9) and floats.dtype == np.float32
    ((_, wanted),) = classify(engine, [folder / 'a.png'])
    got = predictions.softmax(engine.predict(floats[None]))[0]
    np.testing.assert_array_equal(got, wanted)


def test_bad_files_are_left_out_and_named(network, folder, capsys):
    engine = Session(packed(network), 1)
    failures = Failures()
    files = [*image_files([folder]), str(folder / 'absent.png')]
    found = dict(classify(engine, files, failures))
    names = [os.path.basename(path) for path in found]
    assert names == ['a.png', 'c.PNG', 'f.png', 'e [1].png']
    assert [os.path.basename(p) for p in failures] == ['b.jpg', 'd.jpg', 'absent.png']
    lines = capsys.readouterr().err.splitlines()
    for line, name in zip(lines, failures, strict=True):
        assert line.startswith('error: ') and name in line
    assert failures.summary(7) == 'error: 3 of 7 images could not be classified'
    alone = dict(classify(engine, list(found)))
    for path, scores in found.items():
        np.testing.assert_array_equal(scores, alone[path])


def test_a_folder_means_no_hidden_ones_and_hides_no_broken_link(tmp_path):
    root = tmp_path / '.cache' / 'photos'  # what the user names is never hidden
    for name in (
        'a.png',
        '.b.png',
        '.thumbnails/a.png',
        'sub/.ipynb_checkpoints/c.png',
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b'')
    (root / 'd.png').symlink_to('nowhere')
    (root / 'e.png').mkdir()
    found = [os.path.relpath(file, root) for file in image_files([root])]
    assert found == ['a.png', 'd.png']


def test_without_a_listener_a_bad_file_is_raised(network, folder):
    engine = Session(packed(network), 1)
    with pytest.raises(OSError, match=r'cannot read image .*b\.jpg'):
        list(classify(engine, [folder / 'a.png', folder / 'b.jpg']))


def test_a_missing_library_is_no_files_fault(network, folder, monkeypatch):
    from mmirnet import images

    monkeypatch.setattr(images, 'opencv', lambda: None)
    monkeypatch.setitem(sys.modules, 'PIL', None)
    engine = Session(packed(network), 1)
    with pytest.raises(ImportError, match='images need'):
        list(classify(engine, [folder / 'a.png'], Failures()))


def test_pixels_of_one_image_at_a_time(network, folder, monkeypatch):
    """However many files there are."""
    alive = []

    def load(path, spec):
        assert not alive, 'the image before is still needed'
        alive.append(path)
        return load_image(path, spec)

    monkeypatch.setattr(predictions, 'load_image', load)
    engine = Session(packed(network), 1)
    for path, _ in classify(engine, [folder / 'a.png'] * 3):
        assert alive.pop() == path


def test_a_long_list_says_how_far_it_is(network, folder, monkeypatch, capsys):
    monkeypatch.setattr(predictions, '_SECONDS', 0.0)
    engine = Session(packed(network), 1)
    assert len(list(classify(engine, [folder / 'a.png'] * 1200))) == 1200
    assert '1,100 of 1,200 images' in capsys.readouterr().err.splitlines()


def relative(paths, folder):
    return [os.path.relpath(path, folder) for path in paths]


@pytest.mark.parametrize(
    ('arguments', 'wanted'),
    [
        (['c.PNG', 'a.png'], ['c.PNG', 'a.png']),
        (['.'], ['a.png', 'b.jpg', 'c.PNG', 'd.jpg', 'deeper/f.png', 'e [1].png']),
        (['deeper', 'a.png'], ['deeper/f.png', 'a.png']),
        (['*.png'], ['a.png', 'e [1].png']),
        (['*.jpg', '[ac].*'], ['b.jpg', 'd.jpg', 'a.png', 'c.PNG']),
        (['**/f.*'], ['deeper/f.png']),
        (['deep*'], ['deeper/f.png']),
        (['[cd]*'], ['c.PNG', 'd.jpg', 'deeper/f.png']),
        (['**/[df]*'], ['d.jpg', 'deeper/f.png']),
        (['e [1].png'], ['e [1].png']),  # a name, not a pattern
        (['*.gif', 'absent.png'], ['*.gif', 'absent.png']),
    ],
)
def test_files_folders_and_patterns(arguments, wanted, folder):
    got = image_files([folder / argument for argument in arguments])
    assert relative(got, folder) == wanted


def test_a_folder_without_images_is_named(tmp_path, network):
    failures = Failures()
    engine = Session(packed(network), 1)
    assert not list(classify(engine, image_files([tmp_path]), failures))
    assert failures == [str(tmp_path)]


def test_a_pattern_of_folders_without_images_is_named(tmp_path):
    (tmp_path / 'empty').mkdir()
    pattern = str(tmp_path / 'e*')
    assert image_files([pattern]) == [pattern]


def test_a_pattern_of_a_broken_link_names_it(tmp_path):
    (tmp_path / 'a.png').symlink_to('nowhere')
    assert image_files([tmp_path / '*.png']) == [str(tmp_path / 'a.png')]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [([], 'no image is named'), ([''], "'' names no image")],
)
def test_nothing_means_no_image(arguments, message):
    with pytest.raises(ConfigError, match=message):
        image_files(arguments)


@pytest.mark.parametrize(
    ('threshold', 'topk', 'wanted'),
    [(0.5, None, [0, 2]), (0.05, 1, [0, 1, 2]), (None, 2, [0, 2]), (0.9, None, [])],
)
def test_several_classes(threshold, topk, wanted):
    scores = np.array([0.7, 0.1, 0.5, 0.01])
    head = dict(scores='sigmoid', threshold=threshold, topk=topk)
    assert predicted(scores, head) == wanted
    entry = result('a.png', scores, None, 2, head)
    assert entry['predicted'] == wanted
    assert [e['label'] for e in entry['top']] == [0, 2]
    assert report(**entry).count('*') == len({0, 2} & set(wanted))
    assert 'predicted' not in result('a.png', scores, None, 2, SOFTMAX)
    assert predicted(scores, SOFTMAX) == [0]


def test_scores_of_a_head_of_sigmoids(network, folder):
    head = dict(scores='sigmoid', threshold=0.5, topk=None)
    engine = Session(packed(network, head=head), 1)
    pixels = load_image(folder / 'a.png', engine.input)
    ((_, got),) = classify(engine, [folder / 'a.png'])
    logits = engine.predict(pixels[None]).astype(np.float64)
    np.testing.assert_allclose(got, 1 / (1 + np.exp(-logits[0])))
    np.testing.assert_array_equal(sigmoid(logits)[0], got)


def run(model, *arguments):
    return subprocess.run(
        [python(), TOOLS / 'deploy' / 'run.py', model, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_the_tool_goes_on_behind_a_bad_file(network, folder, tmp_path):
    path = tmp_path / 'model.safetensors'
    write(packed(network), path)
    outcome = run(path, folder, '--topk', '1')
    assert outcome.returncode == 1
    engine = load(path, 1)
    files = [f for f in image_files([folder]) if not f.endswith('jpg')]
    wanted = [
        report(file, top_k(row, None, 1)) for file, row in classify(engine, files)
    ]
    assert outcome.stdout.splitlines() == '\n'.join(wanted).splitlines()
    assert 'Traceback' not in outcome.stderr
    for name in ('b.jpg', 'd.jpg'):
        assert f'error: cannot read image {folder / name}' in outcome.stderr
    last = outcome.stderr.splitlines()[-1]
    assert last == 'error: 2 of 6 images could not be classified'
    assert run(tmp_path / 'absent', folder / 'a.png').returncode == 2
