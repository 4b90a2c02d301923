"""What is different between a run and the one that wrote its checkpoint, in words."""

from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from ...binary import Schedule
from ...errors import short_repr
from ..changes import config_changes, parse_config
from ..plain import plain
from ..wrappers import param_schedulers

#: Settings that affect only the start of a run, or that are reported separately.
_NOT_COMPARED = (
    'load_from',
    'resume',
    'work_dir',
    'launcher',
    'log_level',
    'experiment_name',
    'model_wrapper_cfg',
    'param_scheduler',
    'optim_wrapper.type',
    'optim_wrapper.optimizer',
    'randomness.seed',
    'randomness.deterministic',
    'train_dataloader.batch_size',
    'train_cfg.max_epochs',
    'train_cfg.max_iters',
)


def differences(
    old: dict, new: dict, checkpoint: dict, runner: Runner, seed: int | None
) -> list[str]:
    """Describes changes since the checkpoint, apart from optimizer and schedules.

    Args:
        old (dict): Output of :func:`~mmirnet.engine.resuming.record.made_with` of the
            run that wrote the checkpoint.
        new (dict): The same of this run.
        checkpoint (dict): ``'meta'`` and ``'keys'`` of the checkpoint.
        runner (Runner): The runner, after it has loaded the checkpoint.
        seed (int | None): Seed of the config.

    Returns:
        list[str]: One line per change.
    """
    return [
        *_of_the_data(old, new, checkpoint['meta'], runner),
        *_of_the_length(old, new, runner),
        *_of_the_state(checkpoint['keys'], runner, seed),
        *_of_the_machine(old, new),
        *_of_the_config(checkpoint['meta'].get('cfg'), runner),
    ]


def optimizer_differences(old: dict, new: dict) -> list[str]:
    """Describes changes of optimizer settings and schedules, from the same records."""
    return [
        *_settings(old['groups'], new['groups']),
        *_schedules(old['schedulers'], new['schedulers']),
    ]


def _of_the_data(old: dict, new: dict, meta: dict, runner: Runner) -> list[str]:
    names = dict(batch_size='batch size', processes='processes', images='images')
    lines = [
        _change(words, old[name], new[name])
        for name, words in names.items()
        if old.get(name, new[name]) != new[name]
    ]
    seen = getattr(runner.train_loop, 'seen', None)
    if not lines or seen is None:
        return [', '.join(lines)] if lines else []
    text = 'training continues with the first image of an epoch'
    if seen:
        text = f'training continues after image {seen} of {new["images"]}'
    if meta['iter'] != runner.iter:
        text += (
            f'; an epoch has {new["length"]} iterations, so that '
            f'{meta["iter"]} iterations count as {runner.iter}'
        )
    return [f'{", ".join(lines)}: {text}']


def _of_the_length(old: dict, new: dict, runner: Runner) -> list[str]:
    name, words = (
        ('epochs', 'max_epochs') if new['by_epoch'] else ('iterations', 'max_iters')
    )
    if old.get(name, new[name]) == new[name]:
        return []
    numbers = ''.join(
        f"and {h.schedule.source.split(',')[0]}'s {' and '.join(h.schedule.numbers)}, "
        for h in runner.hooks
        if isinstance(getattr(h, 'schedule', None), Schedule)
    )
    return [
        f'{_change(words, old[name], new[name])}: schedules without a length of their '
        f'own, {numbers}follow the new one'
    ]


def _settings(old: list[dict] | None, new: list[dict]) -> list[str]:
    changes = {
        (name, repr(a[name]), repr(b[name]))
        for a, b in zip(old or [], new, strict=False)
        for name in a.keys() & b.keys()
        if plain(a[name], name) != b[name]
    }
    return [f'optimizer: {name} {a} -> {b}' for name, a, b in sorted(changes)]


def _schedules(old: list[dict] | None, new: list[dict]) -> list[str]:
    if old is None:
        return []
    if len(old) != len(new):
        return [_change('number of schedules', len(old), len(new))]
    lines = []
    for i, (a, b) in enumerate(zip(old, new, strict=True)):
        kind = a.get('type', b['type'])
        if kind != b['type']:
            lines.append(f'param_scheduler[{i}]: {kind} -> {b["type"]}')
            continue
        lines += [
            _change(f'param_scheduler[{i}], {kind}: {name}', a.get(name), b.get(name))
            for name in sorted((a.keys() | b.keys()) - {'type', 'verbose'})
            if a.get(name) != b.get(name)
        ]
    return lines


def _of_the_state(keys: set[str], runner: Runner, wanted: int | None) -> list[str]:
    lines = []
    if 'optimizer' not in keys:
        lines.append('the checkpoint has no optimizer state: it starts from zero')
    if 'param_schedulers' not in keys and param_schedulers(runner):
        lines.append('the checkpoint holds no schedules: they follow from the config')
    averaging = any(isinstance(h, EMAHook) for h in runner.hooks)
    if 'ema_state_dict' in keys and not averaging:
        lines.append(
            'EMAHook was removed: training continues from the averaged weights'
        )
    if 'ema_state_dict' not in keys and averaging:
        lines.append('EMAHook was added: averaging starts with the current weights')
    if wanted is not None and wanted != runner.seed:
        lines.append(
            f'{_change("seed", runner.seed, wanted)}: the run keeps {runner.seed}, '
            'which determines the order of its images'
        )
    return lines


def _of_the_machine(old: dict, new: dict) -> list[str]:
    lines = []
    for name in ('precision', 'deterministic'):
        if old.get(name, new[name]) != new[name]:
            lines.append(f'{_change(name, old[name], new[name])}, as the config says')
    versions = old.get('versions', {})
    changed = [
        _change(n, versions[n], v)
        for n, v in new['versions'].items()
        if versions.get(n, v) != v
    ]
    if old.get('device', new['device']) != new['device']:
        changed.append(_change('device', old['device'], new['device']))
    if changed:
        lines.append(f'{", ".join(changed)}: the last bits may differ')
    return lines


def _of_the_config(before: str | None, runner: Runner) -> list[str]:
    """Returns the changed settings that apply from now on."""
    text = runner.cfg.pretty_text
    if before == text:
        return []
    old, new = parse_config(before), parse_config(text)
    if old is None or new is None:
        return []
    return [
        f'{_change(key, a, b)}, as the config says'
        for key, a, b in config_changes(old, new)
        if not any(key == n or key.startswith(f'{n}.') for n in _NOT_COMPARED)
    ]


def _change(name: str, old: object, new: object) -> str:
    return f'{name} {short_repr(old)} -> {short_repr(new)}'
