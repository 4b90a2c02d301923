"""A hook that resumes a run whose config has changed since the checkpoint."""

import contextlib
import copy
import io
import warnings

import mmengine
import torch
from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner, find_latest_checkpoint

from ... import __version__
from ...errors import CheckpointError, short_repr
from ..changes import config_changes, parse_config
from ..plain import plain
from ..speed import device_name, precision
from .schedule_hook import ScheduleHook

#: State of a scheduler that it counts itself or takes from the optimizer.
_RUNNING = (
    'last_step',
    '_global_step',
    '_last_value',
    'base_values',
    'best',
    'num_bad_epochs',
    'cooldown_counter',
)
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
_LINES = 30


@HOOKS.register_module()
class ResumeHook(Hook):
    """Resumes with the current config and reports what changed since the checkpoint.

    If nothing has changed, the resumed run is bit-identical to an uninterrupted one. If
    the config has changed, MMEngine mixes both configs: the learning rate schedule is
    that of the checkpoint, and the number of epochs that of the config. With this hook,
    all settings follow the config: optimizer settings and schedules take the values
    that a run with this config would have after the same number of epochs and
    iterations. Weights, optimizer state, seed and place in the data are those of the
    checkpoint. Changes that cannot be reconciled are refused.

    The deterministic training loops and ``tools/train.py`` add this hook.

    Raises:
        ValueError: If the checkpoint has no state of a run, or that of another
            optimizer.

    Example:
        >>> custom_hooks = [dict(type='ResumeHook')]
    """

    #: Before EDEHook, which reads the progress of the runner.
    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.checkpoint: dict | None = None

    def before_run(self, runner: Runner) -> None:
        """Saves the state that the config creates, before a checkpoint is loaded."""
        self.checkpoint = None
        wrapper = getattr(runner, 'optim_wrapper', None)
        if isinstance(wrapper, OptimWrapperDict):
            if runner._resume:
                runner.logger.warning(
                    'ResumeHook knows one optimizer, and this run has several: changes '
                    'of the config since the checkpoint are not looked for'
                )
            return
        if not isinstance(wrapper, OptimWrapper):
            return
        self.made = made_with(runner)
        self.seed = (runner._randomness_cfg or {}).get('seed')  # resuming changes it
        self.groups = [_settings(g) for g in runner.optim_wrapper.param_groups]
        self.states = [_state(s) for s in _schedulers(runner)]

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuses a checkpoint without the state of this run; keeps its metadata."""
        if not runner._resume or not hasattr(self, 'made'):
            return
        meta = checkpoint.get('meta')
        state = isinstance(meta, dict) and {'epoch', 'iter'} <= meta.keys()
        if not state or 'message_hub' not in checkpoint:
            raise CheckpointError(
                _refusal(runner, 'holds weights, but no state of a run')
            )
        if 'optimizer' in checkpoint:
            self._check_optimizer(runner, checkpoint)
        elif not _saves_without_optimizer(runner):
            raise CheckpointError(_refusal(runner, 'holds no state of the optimizer'))
        kept = ('meta', 'message_hub', 'param_schedulers')
        self.checkpoint = {k: checkpoint[k] for k in kept if k in checkpoint}
        self.checkpoint['keys'] = set(checkpoint)
        states = checkpoint.get('early_stopping', [])
        for hook, state in zip(_early_stopping(runner), states, strict=False):
            vars(hook).update(state)
        self.old = _made_with_before(checkpoint)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds what MMEngine's early stopping remembers of earlier epochs."""
        if states := [
            dict(wait_count=hook.wait_count, best_score=float(hook.best_score))
            for hook in _early_stopping(runner)
        ]:
            checkpoint['early_stopping'] = states

    def _check_optimizer(self, runner: Runner, checkpoint: dict) -> None:
        old, new = _made_with_before(checkpoint), self.made
        kinds = [m.get('optimizer') for m in (old, new)]
        if kinds[0] and kinds[0] != kinds[1]:
            text = f'has the state of {kinds[0]}, and the config asks for {kinds[1]}'
            raise CheckpointError(_refusal(runner, text))
        sizes = [
            [len(group['params']) for group in groups]
            for groups in (
                checkpoint['optimizer']['param_groups'],
                runner.optim_wrapper.optimizer.param_groups,
            )
        ]
        if sizes[0] != sizes[1]:
            text = (
                f'has {len(sizes[0])} groups of {sum(sizes[0])} parameters in the '
                f'optimizer, and the config makes {len(sizes[1])} of {sum(sizes[1])}'
            )
            raise CheckpointError(_refusal(runner, text))

    def before_train(self, runner: Runner) -> None:
        """Makes schedules follow the config, and reports the changes."""
        if not hasattr(self, 'made'):
            return
        earlier, over = {}, False
        if self.checkpoint is not None:
            self._log_changes(runner, self._differences(runner))
            earlier, over = self._earlier_parts(), _is_over(runner)
        now = dict(devices=self.made['device'], precisions=precision(runner))
        for name, value in now.items():  # of all parts of the run, in their order
            parts = earlier.get(name, [])
            if not (over and parts):
                parts = [*parts, value]
            self.made[name] = list(dict.fromkeys(parts))
        runner.message_hub.update_info('made_with', self.made)

    def _earlier_parts(self) -> dict[str, list[str]]:
        """Returns devices and precisions of the run until the checkpoint."""
        old, kind = self.old, self.old.get('precision')
        device = [old['device']] if 'device' in old else []
        # Older checkpoints name the wrapper alone.
        changed = [kind] if kind not in (None, self.made['precision']) else []
        return dict(
            devices=old.get('devices') or device,
            precisions=old.get('precisions') or changed,
        )

    def _log_changes(self, runner: Runner, lines: list[str]) -> None:
        text = f'Resumed after epoch {runner.epoch}, iteration {runner.iter}. '
        if _is_over(runner):
            text += 'The run is complete: nothing is left to train. '
        if not lines:
            text += 'Nothing has changed since the checkpoint was saved.'
            runner.logger.info(text)
            return
        more = len(lines) - _LINES
        lines = lines[:_LINES] + [f'and {more} more'] * (more > 0)
        text += 'Changed since the checkpoint was saved:'
        runner.logger.warning('\n  - '.join([text, *lines]))

    def _differences(self, runner: Runner) -> list[str]:
        old, new = self.old, self.made
        return [
            *_of_the_data(old, new, self.checkpoint['meta'], runner),
            *_of_the_length(old, new, runner),
            *self._follow_the_config(runner),
            *_of_the_state(self.checkpoint, runner, self.seed),
            *_of_the_machine(old, new),
            *_of_the_config(self.checkpoint, runner),
        ]

    def _follow_the_config(self, runner: Runner) -> list[str]:
        """Sets settings and schedules as this config would; returns the changes."""
        old, new = self.old, self.made
        lines = _settings_changed(old['groups'], new['groups'])
        lines += _schedules_changed(old['schedulers'], new['schedulers'])
        steps = [_steps(s, runner) for s in _schedulers(runner)]
        done = [s._global_step for s in _schedulers(runner)]
        if not lines and steps == done:
            return []
        before = _current(runner)
        self._replay(runner)
        after = _current(runner)
        moved = [f'{k} {before[k]:.4g} -> {after[k]:.4g}' for k in after]
        moved = ', '.join(
            m for k, m in zip(after, moved, strict=True) if before[k] != after[k]
        )
        return [
            *lines,
            "the optimizer's settings and schedules follow the config, as after "
            f'{runner.epoch} epochs and {runner.iter} iterations of it: '
            f'{moved or "no value is different now"}',
        ]

    def _replay(self, runner: Runner) -> None:
        """Replays settings and schedulers to the current progress of the run."""
        schedulers = _schedulers(runner)
        metric = [s for s in schedulers if getattr(s, 'need_val_args', False)]
        kept = [
            (s, _state(s), [g[s.param_name] for g in _groups(runner)]) for s in metric
        ]
        bases = [
            [g.get(f'initial_{s.param_name}') for g in _groups(runner)] for s in metric
        ]
        for group, settings in zip(_groups(runner), self.groups, strict=True):
            group.update(copy.deepcopy(settings))
        for scheduler, state in zip(schedulers, self.states, strict=True):
            scheduler.__dict__.update(copy.deepcopy(state))
        by_iter = [s for s in schedulers if not s.by_epoch]
        by_epoch = [s for s in schedulers if s.by_epoch and s not in metric]
        epochs, length = 0, len(runner.train_dataloader)
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            epochs = runner.epoch
        silent = contextlib.redirect_stdout(io.StringIO())
        with warnings.catch_warnings(), silent:
            warnings.simplefilter('ignore')  # about steps without optimizer steps
            for _ in range(epochs):
                _step(by_iter, length)
                _step(by_epoch, 1)
            _step(by_iter, runner.iter - epochs * length)
        # Schedulers that depend on metrics cannot be replayed. They keep their state.
        for (scheduler, state, values), base in zip(kept, bases, strict=True):
            scheduler.__dict__.update({k: state[k] for k in _RUNNING if k in state})
            for group, value, old in zip(_groups(runner), values, base, strict=True):
                new = group.get(f'initial_{scheduler.param_name}')
                group[scheduler.param_name] = value * (new / old) if old else value


def made_with(runner: Runner) -> dict:
    """Collects what a run depends on, as plain data for its checkpoints.

    Args:
        runner (Runner): The runner, after it has built optimizer and schedulers.

    Returns:
        dict: Sizes, optimizer settings, schedules, versions and device.
    """
    loader = runner.train_dataloader
    optimizer = runner.optim_wrapper.optimizer
    parameter = next(runner.model.parameters(), torch.empty(0))
    made = dict(
        batch_size=loader.batch_size,
        processes=runner.world_size,
        images=len(loader.dataset),
        length=len(loader),
        epochs=runner.max_epochs,
        iterations=runner.max_iters,
        by_epoch=isinstance(runner.train_loop, EpochBasedTrainLoop),
        optimizer=type(optimizer).__name__,
        precision=type(runner.optim_wrapper).__name__,
        deterministic=runner.deterministic,
        groups=[_initial(g) for g in optimizer.param_groups],
        schedulers=[
            dict(_fixed(_state(s)), type=type(s).__name__) for s in _schedulers(runner)
        ],
        versions=dict(
            torch=torch.__version__,
            mmengine=mmengine.__version__,
            mmirnet=__version__,
        ),
        device=device_name(parameter.device),
    )
    return plain(made, 'made_with')


def _made_with_before(checkpoint: dict) -> dict:
    """Returns :func:`made_with` of the run that wrote a checkpoint, if available."""
    info = checkpoint['message_hub'].get('runtime_info', {})
    if 'made_with' in info:
        return info['made_with']
    config = parse_config(checkpoint['meta'].get('cfg')) or {}
    found = dict(schedulers=None, groups=None)
    if isinstance(states := checkpoint.get('param_schedulers'), list):
        found['schedulers'] = [_fixed(s) for s in states]
    if 'optimizer' in checkpoint:
        groups = checkpoint['optimizer'].get('param_groups', [])
        found['groups'] = [_initial(g) for g in groups]
    with contextlib.suppress(KeyError, TypeError, AttributeError):
        found['optimizer'] = config['optim_wrapper']['optimizer']['type'].split('.')[-1]
    with contextlib.suppress(KeyError, TypeError):
        found['batch_size'] = config['train_dataloader']['batch_size']
    with contextlib.suppress(KeyError, TypeError):
        found['epochs'] = config['train_cfg']['max_epochs']
    return found


def _refusal(runner: Runner, text: str) -> str:
    path = runner._load_from or find_latest_checkpoint(runner.work_dir)
    return (
        f'--resume: {path} {text}; to start a new run from its weights: '
        f'--cfg-options load_from={path}'
    )


def _saves_without_optimizer(runner: Runner) -> bool:
    return any(getattr(h, 'save_optimizer', True) is False for h in runner.hooks)


def _schedulers(runner: Runner) -> list:
    schedulers = runner.param_schedulers or []
    return schedulers if isinstance(schedulers, list) else []


def _early_stopping(runner: Runner) -> list[EarlyStoppingHook]:
    return [h for h in runner.hooks if isinstance(h, EarlyStoppingHook)]


def _groups(runner: Runner) -> list[dict]:
    return runner.optim_wrapper.param_groups


def _settings(group: dict) -> dict:
    return copy.deepcopy({k: v for k, v in group.items() if k != 'params'})


def _initial(group: dict) -> dict:
    """Returns the settings of a parameter group before any schedule."""
    names = [k for k in group if k != 'params' and not k.startswith('initial_')]
    return {k: group.get(f'initial_{k}', group[k]) for k in names}


def _state(scheduler) -> dict:
    return copy.deepcopy(scheduler.state_dict())


def _fixed(state: dict) -> dict:
    """Returns the part of a scheduler's state that its config sets."""
    return {k: v for k, v in state.items() if k not in _RUNNING and not callable(v)}


def _steps(scheduler, runner: Runner) -> int:
    """Returns the number of steps that a scheduler has made at this progress."""
    if getattr(scheduler, 'need_val_args', False):
        return scheduler._global_step
    return runner.epoch if scheduler.by_epoch else runner.iter


def _step(schedulers: list, times: int) -> None:
    for _ in range(times if schedulers else 0):
        for scheduler in schedulers:
            scheduler.step()


def _current(runner: Runner) -> dict[str, float]:
    """Returns learning rate, momentum and weight decay of the first group."""
    group = runner.optim_wrapper.optimizer.param_groups[0]
    return {
        k: float(group[k]) for k in ('lr', 'momentum', 'weight_decay') if k in group
    }


def _change(name: str, old: object, new: object) -> str:
    return f'{name} {short_repr(old)} -> {short_repr(new)}'


def _settings_changed(old: list[dict] | None, new: list[dict]) -> list[str]:
    changes = {
        (name, repr(a[name]), repr(b[name]))
        for a, b in zip(old or [], new, strict=False)
        for name in a.keys() & b.keys()
        if plain(a[name], name) != b[name]
    }
    return [f'optimizer: {name} {a} -> {b}' for name, a, b in sorted(changes)]


def _schedules_changed(old: list[dict] | None, new: list[dict]) -> list[str]:
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
        if isinstance(h, ScheduleHook)
    )
    return [
        f'{_change(words, old[name], new[name])}: schedules without a length of their '
        f'own, {numbers}follow the new one'
    ]


def _is_over(runner: Runner) -> bool:
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        return runner.epoch >= runner.max_epochs
    return runner.iter >= runner.max_iters


def _of_the_state(checkpoint: dict, runner: Runner, wanted: int | None) -> list[str]:
    lines = []
    if 'optimizer' not in checkpoint['keys']:
        lines.append('the checkpoint has no optimizer state: it starts from zero')
    if 'param_schedulers' not in checkpoint['keys'] and _schedulers(runner):
        lines.append('the checkpoint holds no schedules: they follow from the config')
    averaging = any(isinstance(h, EMAHook) for h in runner.hooks)
    if 'ema_state_dict' in checkpoint['keys'] and not averaging:
        lines.append(
            'EMAHook was removed: training continues from the averaged weights'
        )
    if 'ema_state_dict' not in checkpoint['keys'] and averaging:
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


def _of_the_config(checkpoint: dict, runner: Runner) -> list[str]:
    """Returns the changed settings that apply from now on."""
    text = runner.cfg.pretty_text
    if checkpoint['meta'].get('cfg') == text:
        return []
    old, new = parse_config(checkpoint['meta'].get('cfg')), parse_config(text)
    if old is None or new is None:
        return []
    return [
        f'{_change(key, a, b)}, as the config says'
        for key, a, b in config_changes(old, new)
        if not any(key == n or key.startswith(f'{n}.') for n in _NOT_COMPARED)
    ]
