"""Trains configs with several seeds; resumable, with one JSON line per run."""

import argparse
from pathlib import Path


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'configs', nargs='+', help='config files, or folders of configs'
    )
    parser.add_argument(
        '--seeds',
        type=int,
        nargs='+',
        default=[0, 1, 2],
        help='a run for each of these (0 1 2)',
    )
    parser.add_argument(
        '--results',
        metavar='FILE',
        help='JSON lines file to append to (default: results.jsonl in the folder of '
        'the first config)',
    )
    parser.add_argument(
        '--work-dir',
        default='work_dirs/experiments',
        help='folder for the work folders (work_dirs/experiments)',
    )
    parser.add_argument(
        '--jobs',
        type=int,
        default=1,
        help='parallel runs (1); OMP_NUM_THREADS sets the cores of each',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        metavar='KEY=VALUE',
        help='override settings of every config',
    )
    args = parser.parse_args()
    # Imported here, so that -h does not take seconds.
    try:
        from mmirnet.apis.command_line import one_line_errors, parse_options
    except ImportError as error:  # OpenMMLab is missing, or its version is wrong
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
            cfg_options=parse_options(args.cfg_options),
        )


if __name__ == '__main__':
    main()
