"""A hook that resumes a run whose config has changed since the checkpoint."""

from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner, find_latest_checkpoint

from ...errors import CheckpointError
from ..resuming.differences import differences, optimizer_differences
from ..resuming.record import made_with, made_with_before
from ..resuming.replay import in_step, replay, start_of
from ..speed import precision

#: Most lines of changes that are logged.
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
        self.start = start_of(runner)

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
        self.old = made_with_before(checkpoint)
        if 'optimizer' in checkpoint:
            self._check_optimizer(runner, checkpoint)
        elif not _saves_without_optimizer(runner):
            raise CheckpointError(_refusal(runner, 'holds no state of the optimizer'))
        self.checkpoint = dict(meta=meta, keys=set(checkpoint))
        states = checkpoint.get('early_stopping', [])
        for hook, state in zip(_early_stopping(runner), states, strict=False):
            vars(hook).update(state)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds what MMEngine's early stopping remembers of earlier epochs."""
        if states := [
            dict(wait_count=hook.wait_count, best_score=float(hook.best_score))
            for hook in _early_stopping(runner)
        ]:
            checkpoint['early_stopping'] = states

    def _check_optimizer(self, runner: Runner, checkpoint: dict) -> None:
        kinds = [m.get('optimizer') for m in (self.old, self.made)]
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
            lines = self._follow_the_config(runner)
            lines += differences(
                self.old, self.made, self.checkpoint, runner, self.seed
            )
            self._log_changes(runner, lines)
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

    def _follow_the_config(self, runner: Runner) -> list[str]:
        """Sets settings and schedules as this config would; returns the changes."""
        lines = optimizer_differences(self.old, self.made)
        if not lines and in_step(runner):
            return []
        moved = [
            f'{name} {before:.4g} -> {after:.4g}'
            for name, (before, after) in replay(runner, self.start).items()
        ]
        return [
            *lines,
            "the optimizer's settings and schedules follow the config, as after "
            f'{runner.epoch} epochs and {runner.iter} iterations of it: '
            f'{", ".join(moved) or "no value is different now"}',
        ]


def _refusal(runner: Runner, text: str) -> str:
    path = runner._load_from or find_latest_checkpoint(runner.work_dir)
    return (
        f'--resume: {path} {text}; to start a new run from its weights: '
        f'--cfg-options load_from={path}'
    )


def _saves_without_optimizer(runner: Runner) -> bool:
    return any(getattr(h, 'save_optimizer', True) is False for h in runner.hooks)


def _early_stopping(runner: Runner) -> list[EarlyStoppingHook]:
    return [h for h in runner.hooks if isinstance(h, EarlyStoppingHook)]


def _is_over(runner: Runner) -> bool:
    if isinstance(runner.train_loop, EpochBasedTrainLoop):
        return runner.epoch >= runner.max_epochs
    return runner.iter >= runner.max_iters
