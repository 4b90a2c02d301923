"""The benchmarks run, and notice when gradients are wrong."""

import importlib
import json
import sys

import pytest
import torch
import train_step

torch.set_num_threads(1)


def run_main(monkeypatch, module, *args):
    monkeypatch.setattr(sys, 'argv', [module.__name__, *map(str, args)])
    module.main()


def test_train_step_writes_its_report(tmp_path, monkeypatch, capsys):
    only = ['ours eager', 'ours bf16 channels_last']
    args = ['--batch', 4, '--size', 8, '--repeats', 3, '--out', tmp_path / 'step']
    run_main(monkeypatch, train_step, *args, '--only', *only)
    report = json.loads((tmp_path / 'step.json').read_text())
    rows = report['variants']
    assert list(rows) == ['ref', 'fp eager', *only]
    assert rows['ref']['vs_ref']['median'] == rows['fp eager']['vs_fp']['median'] == 1
    assert rows['ours eager']['saved_bytes'] < rows['ref']['saved_bytes']
    for row in rows.values():
        assert row['ms'] > 0 and row['peak_bytes'] >= row['saved_bytes'] > 0
    assert 0 < max(report['gradient_errors'].values()) < train_step.TOLERANCE
    assert 'ours eager' in capsys.readouterr().out
    assert (tmp_path / 'step.png').stat().st_size > 0


def test_train_step_captures_on_gpus_alone(monkeypatch, capsys):
    name = 'ours compiled bf16 channels_last captured'
    with pytest.raises(SystemExit):
        run_main(monkeypatch, train_step, '--only', name)
    assert f'{name}: needs --device cuda' in capsys.readouterr().err
    assert name in train_step.on(torch.device('cuda'))
    assert name not in train_step.on(torch.device('cpu'))


def test_train_step_notices_wrong_gradients(monkeypatch):
    original = train_step.gradients

    def off(layer, weight, x, grad):
        dx, dw = original(layer, weight, x, grad)
        return dx, dw * (1 + 2e-5 * isinstance(layer, train_step.IRConv2d))

    monkeypatch.setattr(train_step, 'gradients', off)
    with pytest.raises(ValueError, match='eager: gradient of the weight of layer1'):
        train_step.check_gradients('resnet20', torch.randn(2, 3, 8, 8), compiled=False)


@pytest.mark.parametrize(
    ('flags', 'options'), [([], []), (['--capture'], ['train_cfg.capture=False'])]
)
def test_runner_throughput_writes_its_report(tmp_path, monkeypatch, flags, options):
    import runner_throughput

    run_main(
        monkeypatch,
        runner_throughput,
        *('mmirnet::irnet/resnet20_bireal_digits.py', '--in-memory', '--epochs', 1),
        *flags,
        *('--images', 96, '--out', tmp_path / 'runner.json'),
        *('--cfg-options', 'val_dataloader.dataset.indices=40', *options),
    )
    report = json.loads((tmp_path / 'runner.json').read_text())
    ratio = report['runner_images_per_s'] / report['bare_images_per_s']
    assert report['ratio']['median'] == pytest.approx(ratio)
    seconds = report['train_s'] + report['val_s']
    assert report['whole_run_minutes'] == pytest.approx(30 * seconds / 60)
    assert report['val_s'] > 0


def test_clients_writes_its_report(tmp_path, monkeypatch):
    import clients

    out = tmp_path / 'clients.json'
    args = ['--size', 32, '--clients', 1, 3, '--rounds', 1, '--seconds', 0.02]
    run_main(monkeypatch, clients, *args, '--threads', 1, '--out', out)
    rows = json.loads(out.read_text())['rows']
    assert [(row['threads'], row['clients']) for row in rows] == [(1, 1), (1, 3)]
    for row in rows:
        assert 0 < row['p50_ms'] <= row['p99_ms']
        assert row['images_per_s'] > 0


def test_inference_times_our_runtime_alone(tmp_path, monkeypatch):
    import inference

    out = tmp_path / 'ours.json'
    monkeypatch.setattr(inference, 'BLOCKS', ((64, 4),))
    args = ['--what', 'blocks', '--rounds', 1, '--only-ours', '--out', out]
    run_main(monkeypatch, inference, *args)
    report = json.loads(out.read_text())
    (times,) = report['seconds'].values()
    assert set(times) == {f'runtime {isa}' for isa in report['instruction_sets'][:-1]}
    assert min(times.values(), default=1) > 0


def test_inference_compares_the_recipes(monkeypatch, capsys):
    import inference

    monkeypatch.setattr(inference, 'BLOCKS', ((64, 4),))
    run_main(monkeypatch, inference, '--what', 'recipes', '--rounds', 1)
    lines = capsys.readouterr().out.splitlines()
    for recipe in inference.RECIPES:
        found = [line for line in lines if line.split()[:1] == [recipe]]
        assert len(found) == len(inference.instruction_sets()) - 1


CONFIG = 'mmirnet::irnet/resnet20_bireal_digits.py'
NUMBER = 'give a whole number from 1 on'


@pytest.mark.parametrize(
    ('tool', 'arguments', 'message'),
    [
        ('train_step', ['--batch', 0], f'argument --batch: 0: {NUMBER}'),
        ('train_step', ['--repeats', 1], '1: give a whole number from 2 on'),
        ('clients', ['--clients', 1, 0], f'argument --clients: 0: {NUMBER}'),
        ('clients', ['--rounds', 0], f'argument --rounds: 0: {NUMBER}'),
        ('clients', ['--seconds', 0], '0: give a number from 0.001 on'),
        ('inference', ['--rounds', -1], f'argument --rounds: -1: {NUMBER}'),
        ('inference', ['--batches', 0], f'argument --batches: 0: {NUMBER}'),
        ('runner_throughput', [CONFIG, '--epochs', 0], f'--epochs: 0: {NUMBER}'),
        ('runner_throughput', [CONFIG, '--out', 'FOLDER'], '--out: cannot write '),
        ('inference', ['--out', 'FOLDER'], 'argument --out: cannot write '),
        ('clients', ['--out', 'FOLDER'], 'argument --out: cannot write '),
        ('ablation_costs', ['--repeats', 0], f'argument --repeats: 0: {NUMBER}'),
        ('ablation_costs', ['absent'], 'there is no config absent/*.py'),
    ],
)
def test_what_cannot_be_measured_is_refused_before(
    tool, arguments, message, tmp_path, monkeypatch, capsys
):
    words = [str(tmp_path) if word == 'FOLDER' else word for word in arguments]
    with pytest.raises(SystemExit) as ended:
        run_main(monkeypatch, importlib.import_module(tool), *words)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
