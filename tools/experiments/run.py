"""Trains configs with several seeds: once each, resumable, a JSON line for each run."""

import argparse
from pathlib import Path

try:
    from mmengine.config import DictAction
except ImportError:  # which main tells
    DictAction = 'store'


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', help='config files, or folders of them')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument(
        '--results',
        metavar='FILE',
        help="JSON lines, to which runs are added (results.jsonl in the first config's "
        'folder)',
    )
    parser.add_argument(
        '--work-dir', default='work_dirs/experiments', help="folder of the runs' own"
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        help='runs at a time (1); give each its cores by OMP_NUM_THREADS',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='settings over those of every config',
    )
    args = parser.parse_args()
    # Seconds of imports that -h does not need.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is not here, or not the right one
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    configs = []
    for path in map(Path, args.configs):
        configs += sorted(path.glob('*.py')) if path.is_dir() else [path]
    if not configs:
        parser.error(f'there is no config in {", ".join(args.configs)}')
    results = args.results or configs[0].parent / 'results.jsonl'
    with one_line_errors():
        from mmirnet.apis.experiments import run_all

        run_all(
            configs,
            args.seeds,
            results,
            work_dir=args.work_dir,
            jobs=args.jobs,
            cfg_options=args.cfg_options,
        )


if __name__ == '__main__':
    main()
