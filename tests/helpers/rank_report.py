"""A hook for configs: each rank writes down what it holds after training."""

import hashlib
import json
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS

from mmirnet.binary import binary_layers


@HOOKS.register_module()
class RankReport(Hook):
    """Writes rank_N.json: digest of the state, t and k, best metric."""

    priority = 'LOWEST'

    def after_train(self, runner):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        digest = hashlib.sha256()
        for name, value in model.state_dict().items():
            digest.update(name.encode() + value.numpy().tobytes())
        report = dict(
            state=digest.hexdigest(),
            ede=[layer.ede.tolist() for _, layer in binary_layers(model)],
            best=runner.message_hub.get_info('best_score'),
            world_size=runner.world_size,
        )
        path = Path(runner.work_dir) / f'rank_{runner.rank}.json'
        path.write_text(json.dumps(report))
