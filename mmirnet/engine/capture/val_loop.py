"""A validation loop that replays the predictions of whole batches as CUDA graphs.

After a captured epoch of a small network, an ordinary validation would take half as
long as the training: each image costs Python a data sample, and the device two waits.
Even with predictions made at once, a sample an image for ``Accuracy`` would take a
third of an epoch, so it gets them in two tensors.
"""

import time

import torch
from mmengine.dist import get_world_size
from mmengine.evaluator import Evaluator
from mmengine.hooks import IterTimerHook, LoggerHook
from mmengine.registry import LOOPS
from mmengine.runner import Runner, ValLoop
from mmpretrain.engine import VisualizationHook
from mmpretrain.evaluation import Accuracy
from mmpretrain.models import ClsHead, ImageClassifier
from torch import Tensor
from torch.utils.data import DataLoader

from ...datasets.labelled import labelled
from ..hooks import CompileHook
from .graphs import capturing
from .hook_calls import change_between_epochs
from .requirements import problem_of_data

_WAY_OUT = "or set val_cfg.type='ValLoop' (leave out --capture)"
#: What ClsHead predicts for each image, and its label.
_FIELDS = ('pred_score', 'pred_label', 'gt_label')
#: Hooks that are called for each batch and do not look at it. Subclasses may.
_CALLED = (IterTimerHook, LoggerHook, CompileHook)


@LOOPS.register_module()
class CapturedValLoop(ValLoop):
    """MMEngine's ValLoop, with the predictions of a batch as a CUDA graph.

    Predictions stay on the device until the last batch. Then the metrics get all of
    them at once, so results and logs are those of ``ValLoop``. The first validation and
    smaller last batches run uncaptured. ``Accuracy`` alone takes the least time.

    The loop needs a GPU, ``InMemory`` data, a classifier whose head predicts as
    MMPretrain's ``ClsHead`` does, and MMPretrain's metrics. Other runs are validated as
    ``ValLoop`` does it, with a line in the log.

    Args:
        runner (Runner): The runner.
        dataloader (dict | DataLoader): ``val_dataloader``.
        evaluator (Evaluator | dict | list): ``val_evaluator``.
        fp16 (bool): As for ``ValLoop``.
        capture (bool): If False, the same batches run one by one, on any device.

    Raises:
        ConfigError: If the predictions of the network cannot be captured.

    Example:
        >>> val_cfg = dict(type='CapturedValLoop')
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: dict | DataLoader,
        evaluator: Evaluator | dict | list,
        fp16: bool = False,
        capture: bool = True,
    ) -> None:
        super().__init__(runner, dataloader, evaluator, fp16)
        self.capture = capture
        self._fits: bool | None = None  # not known before the first validation
        self._graph: torch.cuda.CUDAGraph | None = None
        self._kept: tuple | None = None

    def run(self) -> dict[str, float]:
        """Validates and returns the metrics."""
        is_first = self._fits is None
        if is_first:
            reason = self._runs_uncaptured()
            self._fits = reason is None
            if reason:
                self.runner.logger.info(f'CapturedValLoop captures nothing: {reason}')
        if is_first or not self._fits:
            return super().run()  # the first compiles, and libraries choose kernels
        self.runner.call_hook('before_val')
        self.runner.call_hook('before_val_epoch')
        self.runner.model.eval()
        metrics = self._evaluate(*self._predictions())
        self.runner.call_hook('after_val_epoch', metrics=metrics)
        self.runner.call_hook('after_val')
        return metrics

    def _runs_uncaptured(self) -> str | None:
        """Returns why validations run as in ValLoop; None if they need not."""
        data, model = self.dataloader.dataset, self.runner.model
        if get_world_size() > 1:
            return 'the run is distributed'
        if self.capture and not torch.cuda.is_available():
            return 'there is no GPU'
        device = next(model.parameters()).device
        if problem := problem_of_data('val_dataloader', data, device):
            return problem
        if data.augmentation.draws:
            return 'val_dataloader.dataset draws random numbers'
        if self.fp16:
            return 'val_cfg.fp16 is set'
        if type(model) is not ImageClassifier or not _predicts_as_usual(model.head):
            return 'the model does not predict as ImageClassifier with a ClsHead'
        for metric in self.evaluator.metrics:
            if not type(metric).__module__.startswith('mmpretrain.'):
                return f'{type(metric).__name__} may look at the images of a batch'
        for hook in self.runner.hooks:
            stages = hook.get_triggered_stages()
            looks = {'before_val_iter', 'after_val_iter'} & set(stages)
            if type(hook) is VisualizationHook:
                looks = hook.enable
            if looks and type(hook) not in _CALLED:
                return f'{type(hook).__name__} looks at each batch'
        return None

    @torch.no_grad()
    def _predictions(self) -> tuple[list[int], list[Tensor]]:
        """Predicts all images; returns their indices and, on the CPU, the fields."""
        kept = self._what_the_graph_keeps()
        if kept != self._kept or change_between_epochs(self.runner):
            self._kept, self._graph = kept, None
        batches = list(self.dataloader.batch_sampler)
        indices = [int(index) for batch in batches for index in batch]
        on_device = torch.tensor(indices).to(self.dataloader.dataset.images.device)
        found = []
        for i, rows in enumerate(on_device.split([len(batch) for batch in batches])):
            at = dict(batch_idx=i, data_batch=None)
            self.runner.call_hook('before_val_iter', **at)
            found.append(self._predict(rows))
            self.runner.call_hook('after_val_iter', outputs=None, **at)
        return indices, [torch.cat(field).cpu() for field in zip(*found, strict=True)]

    def _evaluate(self, indices: list[int], fields: list[Tensor]) -> dict[str, float]:
        """Returns the metrics of all predictions."""
        evaluator, size = self.evaluator, len(self.dataloader.dataset)
        if all(type(metric) is Accuracy for metric in evaluator.metrics):
            # The first image gives the names, in the order of the values.
            first = _data_samples(indices[:1], [field[:1] for field in fields])
            evaluator.process(data_samples=first)
            names = evaluator.evaluate(1)
            scores, _, labels = (field[:size] for field in fields)
            tables = [
                metric.calculate(scores, labels.flatten(), metric.topk, metric.thrs)
                for metric in evaluator.metrics
            ]
            values = [v.item() for table in tables for row in table for v in row]
            if len(values) == len(names):  # not if two have one name
                return dict(zip(names, values, strict=True))
        evaluator.process(data_samples=_data_samples(indices, fields))
        return evaluator.evaluate(size)

    def _predict(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Predicts a batch; each field is (N, ...), on the device."""
        if not self.capture or len(rows) != self.dataloader.batch_size:
            return self._step(rows)
        if self._graph is None:
            self._capture(rows)
        self._rows.copy_(rows)
        self._graph.replay()
        return tuple(value.clone() for value in self._outputs)

    def _step(self, rows: Tensor) -> tuple[Tensor, ...]:
        data = self.dataloader.dataset
        samples = labelled(data.labels[rows], join=True)
        batch = dict(inputs=data.take(rows, None), data_samples=samples)
        samples = self.runner.model.val_step(batch)
        return tuple(torch.stack([s.get(f) for s in samples]) for f in _FIELDS)

    def _what_the_graph_keeps(self) -> tuple:
        tensors = (*self.runner.model.parameters(), *self.runner.model.buffers())
        return tuple(tensor.data_ptr() for tensor in tensors)

    def _capture(self, rows: Tensor) -> None:
        start = time.perf_counter()
        self._rows = rows.clone()
        graph = torch.cuda.CUDAGraph()
        with capturing(graph, 'CapturedValLoop: the prediction of a batch', _WAY_OUT):
            self._outputs = self._step(self._rows)
        self._graph = graph
        self.runner.logger.info(
            'CapturedValLoop: the prediction of a batch was captured in '
            f'{time.perf_counter() - start:.1f} s'
        )


def _data_samples(indices: list[int], fields: list[Tensor]) -> list[dict]:
    """Returns what MMEngine makes of the data samples of the images."""
    classes = dict(num_classes=fields[0].shape[1])
    rows = zip(indices, *(field.unbind() for field in fields), strict=True)
    return [
        {**classes, 'sample_idx': index, **dict(zip(_FIELDS, values, strict=True))}
        for index, *values in rows
    ]


def _predicts_as_usual(head: object) -> bool:
    """Whether a head predicts one score a class and a label, as ClsHead."""
    kind = type(head)
    return isinstance(head, ClsHead) and all(
        getattr(kind, name) is getattr(ClsHead, name)
        for name in ('predict', '_get_predictions')
    )
