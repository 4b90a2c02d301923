"""Checkpoints from which a run resumes exactly."""

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
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ...files import check_writable, lock_folder, remove_stale_temporaries, write_atomic
from ..plain import plain


@HOOKS.register_module()
class AtomicCheckpointHook(CheckpointHook):
    """MMEngine's checkpoint hook, with files that are whole or not there.

    - Files are written beside their place, flushed and renamed, and carry a
      digest, see :mod:`mmirnet.engine.checkpoint`.
    - An old checkpoint goes only when the new one is there.
    - What a killed run left half written is cleared away.
    - The rest of what is saved is brought to plain data, so that it can be loaded;
      what cannot be is named before training starts.
    - A second run in the same folder is refused.
    - Each rank's buffers are kept: between two synchronisations the running
      statistics of batch norms differ from rank to rank.

    Args:
        **kwargs: As for MMEngine's ``CheckpointHook``: ``interval``, ``by_epoch``,
            ``max_keep_ckpts``, ``save_best``, ``rule``, ...

    Example:
        >>> default_hooks = dict(
        ...     checkpoint=dict(type='AtomicCheckpointHook', save_best='auto'))
    """

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault('backend_args', dict(backend='whole'))
        super().__init__(**kwargs)
        if self.args:  # MMEngine keeps what it does not know, and fails when it saves
            raise TypeError(
                'AtomicCheckpointHook.__init__() got an unexpected keyword argument '
                f'{next(iter(self.args))!r}'
            )
        self._buffers: list[dict[str, torch.Tensor]] = []
        self._lock = None

    def before_train(self, runner: Runner) -> None:
        """See that there will be checkpoints, and that they are this run's alone."""
        if self.out_dir is not None and '://' not in str(self.out_dir):
            self.out_dir = os.path.abspath(os.path.expanduser(self.out_dir))
        super().before_train(runner)
        metainfo = getattr(runner.train_dataloader.dataset, 'metainfo', {})
        plain(metainfo, 'train_dataloader.dataset.metainfo')
        self._forget_foreign_best()
        if is_main_process():
            self._lock = lock_folder(runner.work_dir)
            # Now, and not after the first epoch.
            check_writable(Path(self.out_dir) / self.filename_tmpl.format(0))
            for folder in {runner.work_dir, self.out_dir}:
                remove_stale_temporaries(folder)

    def after_train(self, runner: Runner) -> None:
        """Publish, as MMEngine does, and leave the folder to the next run."""
        super().after_train(runner)
        if self._lock is not None:
            Path(self._lock.name).unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def _forget_foreign_best(self) -> None:
        """Look for the best checkpoint in this run's folder.

        MMEngine removes the one that a resumed checkpoint names when there is a
        better one: that of the other run, where the folder is a copy.
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
        """Save where training stands after this iteration; call it on all ranks.

        Args:
            runner (Runner): The runner, in its hooks after an iteration.

        Returns:
            str: The file.
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

    @master_only
    def _remove(self, names: list[str]) -> None:
        for name in names:
            (Path(self.out_dir) / name).unlink(missing_ok=True)

    def _gather_buffers(self, runner: Runner) -> None:
        self._buffers = []
        if get_world_size() > 1:
            model = (
                runner.model.module if is_model_wrapper(runner.model) else runner.model
            )
            saved = model.state_dict().keys()
            mine = {n: b.cpu() for n, b in model.named_buffers() if n in saved}
            self._buffers = all_gather_object(mine)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Add each rank's buffers; bring what is no weight to plain data."""
        if self._buffers:
            checkpoint['rank_buffers'] = self._buffers
        schedulers = checkpoint.get('param_schedulers', [])
        for part in (
            schedulers.values() if isinstance(schedulers, dict) else [schedulers]
        ):
            # OneCycle keeps a function there, which it makes anew itself.
            part[:] = [
                {k: v for k, v in state.items() if not callable(v)} for state in part
            ]
        for key, value in checkpoint.items():
            checkpoint[key] = plain(value, key)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Give this rank its own buffers back when the run is resumed."""
        buffers = checkpoint.get('rank_buffers', [])
        if runner._resume and len(buffers) == get_world_size() > 1:
            checkpoint['state_dict'].update(buffers[get_rank()])
