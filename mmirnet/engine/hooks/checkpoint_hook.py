"""A checkpoint hook for bit-identical resumption."""

import os
from pathlib import Path

import torch
from mmengine.dist import (
    all_gather_object,
    get_rank,
    get_world_size,
    is_main_process,
    master_only,
)
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...files import check_writable, lock_folder, remove_stale_temporaries, write_atomic
from ..histories import compact
from ..plain import plain
from ..wrappers import optim_wrappers, unwrap


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's checkpoint hook with atomic writes and complete state.

    - Writes each checkpoint to a temporary file, fsyncs it, then renames it. Each
      checkpoint has a digest, see :mod:`mmirnet.engine.checkpoint`.
    - Removes an old checkpoint only after the new one is written.
    - Removes temporary files that killed runs left.
    - Converts everything except weights to plain data, so that it can be loaded. Values
      that cannot be converted are reported before training starts.
    - Refuses a second run in the same folder.
    - Saves the buffers of each rank, because the running statistics of batch norms
      differ between ranks until they are synchronised.
    - With ``save_best='auto'``, takes the first metric that is known to be better when
      it is greater or less, instead of failing at another one.
    - Saves the gradients of each rank where the optimizer accumulates them over more
      iterations than have been done.

    Args:
        **kwargs: Arguments of MMEngine's ``CheckpointHook``: ``interval``,
            ``by_epoch``, ``max_keep_ckpts``, ``save_best``, ``rule``, ...

    Example:
        >>> default_hooks = dict(
        ...     checkpoint=dict(type='AtomicCheckpointHook', save_best='auto'))
    """

    _default_greater_keys = [*CheckpointHook._default_greater_keys, 'f1', 'recall']

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault('backend_args', dict(backend='whole'))
        super().__init__(**kwargs)
        if self.args:  # MMEngine keeps what it does not know, and fails when it saves
            raise TypeError(
                'AtomicCheckpointHook.__init__() got an unexpected keyword argument '
                f'{next(iter(self.args))!r}'
            )
        self._buffers: list[dict[str, torch.Tensor]] = []
        self._gradients: list[dict[str, torch.Tensor]] = []
        self._lock = None

    def before_train(self, runner: Runner) -> None:
        """Checks that checkpoints can be written, and locks the folder."""
        if self.out_dir is not None and '://' not in str(self.out_dir):
            self.out_dir = os.path.abspath(os.path.expanduser(self.out_dir))
        super().before_train(runner)
        metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', {})
        plain(metainfo, 'train_dataloader.dataset.metainfo')
        self._forget_foreign_best()
        if is_main_process():
            self._lock = lock_folder(runner.work_dir)
            # Before training, not after the first epoch.
            check_writable(Path(self.out_dir) / self.filename_tmpl.format(0))
            for folder in {runner.work_dir, self.out_dir}:
                remove_stale_temporaries(folder)
        self._restore_gradients(runner)

    def after_train(self, runner: Runner) -> None:
        """Publishes like MMEngine's hook, and unlocks the folder."""
        super().after_train(runner)
        if self._lock is not None:
            Path(self._lock.name).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def _forget_foreign_best(self) -> None:
        """Looks for the best checkpoint in the folder of this run.

        When there is a better checkpoint, MMEngine removes the one that the resumed
        checkpoint names. If the folder is a copy, that belongs to the other run.
        """

        def own(path: str | None) -> str | None:
            path = path and os.path.join(self.out_dir, os.path.basename(path))
            return path if path and os.path.isfile(path) else None

        if getattr(self, 'best_ckpt_path', None):
            self.best_ckpt_path = own(self.best_ckpt_path)
        paths = getattr(self, 'best_ckpt_path_dict', {})
        for key, path in paths.items():
            paths[key] = own(path)

    def save_within_epoch(self, runner: Runner) -> str:
        """Saves a checkpoint after the current iteration; to be called on all ranks.

        Args:
            runner (Runner): The runner, in a hook after an iteration.

        Returns:
            str: The path of the checkpoint.
        """
        meta = dict(epoch=runner.epoch, iter=runner.iter + 1)
        return self._save(runner, f'preempted_iter_{runner.iter + 1}.pth', meta)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        kept = [*(i for i in getattr(self, 'keep_ckpt_ids', []) if i != step), step]
        if self.max_keep_ckpts > 0:
            dropped = kept[: -self.max_keep_ckpts]
            kept = kept[-self.max_keep_ckpts :]
            self.keep_ckpt_ids = type(self.keep_ckpt_ids)(kept, self.max_keep_ckpts)
            runner.message_hub.update_info('keep_ckpt_ids', kept)
        else:
            dropped = []
        self._save(runner, self.filename_tmpl.format(step), meta)
        self._remove([self.filename_tmpl.format(i) for i in dropped])

    def _save(self, runner: Runner, name: str, meta: dict) -> str:
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._gather_buffers(runner)
        self._gather_gradients(runner)
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
        )
        if is_main_process():
            pointer = Path(runner.work_dir) / 'last_checkpoint'
            write_atomic(pointer, self.last_ckpt.encode())
        stale = [p.name for p in Path(self.out_dir).glob('preempted_iter_*.pth')]
        self._remove([n for n in stale if n != name])
        if is_main_process():
            remove_stale_temporaries(self.out_dir)
        return self.last_ckpt

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        undecided = self.save_best and 'auto' in self.key_indicators
        if undecided and self.rules == [None]:
            judged = [k for k, v in metrics.items() if self._judges(k, v)]
            if not judged:
                runner.logger.warning(
                    f"save_best='auto' knows none of {sorted(metrics)}, so no best "
                    'checkpoint is saved: name one, and its rule'
                )
                return
            metrics = {k: metrics[k] for k in [*judged, *metrics]}
        super()._save_best_checkpoint(runner, metrics)

    def _judges(self, key: str, value: object) -> bool:
        """Whether MMEngine knows if more of a metric is better, or less."""
        known = [*self.greater_keys, *self.less_keys]
        number = isinstance(value, int | float)
        return number and any(part.lower() in key.lower() for part in known)

    @master_only
    def _remove(self, names: list[str]) -> None:
        for name in names:
            (Path(self.out_dir) / name).unlink(missing_ok=True)

    def _gather_buffers(self, runner: Runner) -> None:
        self._buffers = []
        if get_world_size() > 1:
            model = unwrap(runner.model)
            saved = model.state_dict().keys()
            mine = {n: b.cpu() for n, b in model.named_buffers() if n in saved}
            self._buffers = all_gather_object(mine)

    def _gather_gradients(self, runner: Runner) -> None:
        self._gradients = []
        if _accumulates(runner):
            named = unwrap(runner.model).named_parameters()
            mine = {n: p.grad.cpu() for n, p in named if p.grad is not None}
            self._gradients = all_gather_object(mine)

    def _restore_gradients(self, runner: Runner) -> None:
        """Gives parameters the gradients of the resumed checkpoint."""
        gradients, self._gradients = self._gradients, []
        if len(gradients) != get_world_size() or not _accumulates(runner):
            return
        mine = gradients[get_rank()]
        for name, parameter in unwrap(runner.model).named_parameters():
            if name in mine:
                parameter.grad = mine[name].to(parameter)
        runner.logger.info('Gradients that are being accumulated have been restored')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Adds the buffers of each rank, and converts the rest to plain data."""
        if self._buffers:
            checkpoint['rank_buffers'] = self._buffers
        if self._gradients:
            checkpoint['rank_gradients'] = self._gradients
        schedulers = checkpoint.get('param_schedulers', [])
        for part in (
            schedulers.values() if isinstance(schedulers, dict) else [schedulers]
        ):
            # OneCycle stores a function, which it creates again itself.
            part[:] = [
                {k: v for k, v in state.items() if not callable(v)} for state in part
            ]
        for key, value in checkpoint.items():
            checkpoint[key] = plain(value, key)
        hub = checkpoint['message_hub']
        histories = {name: compact(h) for name, h in hub['log_scalars'].items()}
        checkpoint['message_hub'] = {**hub, 'log_scalars': histories}

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Restores the buffers of this rank when the run is resumed.

        Its gradients follow before training.
        """
        buffers = checkpoint.get('rank_buffers', [])
        if runner._resume and len(buffers) == get_world_size() > 1:
            checkpoint['state_dict'].update(buffers[get_rank()])
        if runner._resume:
            self._gradients = checkpoint.get('rank_gradients', [])


def _accumulates(runner: Runner) -> bool:
    """Whether gradients wait for further iterations."""
    return any(
        wrapper._inner_count % wrapper._accumulative_counts
        for wrapper in optim_wrappers(runner)
    )
