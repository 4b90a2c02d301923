"""Evaluates a checkpoint on the test set of a config."""

import argparse


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'config',
        help='config file, or PACKAGE::PATH of one in an installed package '
        '(mmirnet::irnet/resnet20_bireal_digits.py)',
    )
    parser.add_argument(
        'checkpoint',
        help='checkpoint file, packed file (.safetensors), or irnet://NAME',
    )
    parser.add_argument(
        '--runtime', action='store_true', help='run a packed file on the 1-bit runtime'
    )
    parser.add_argument(
        '--engine',
        action='store_true',
        dest='runtime',
        help='former name of --runtime',
    )
    parser.add_argument('--work-dir', help='folder for logs (work_dirs/CONFIG)')
    parser.add_argument('--out', metavar='FILE', help='file for the results')
    parser.add_argument(
        '--out-item',
        choices=['metrics', 'pred'],
        help='content of --out: predictions (.pkl, default) or metrics (.json)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        metavar='KEY=VALUE',
        help='override settings of the config, such as '
        'test_dataloader.batch_size=16 or key="[(a,b),(c,d)]" (quotation marks, '
        'no spaces)',
    )
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision')
    parser.add_argument(
        '--show-dir', metavar='FOLDER', help='draw the predictions into FOLDER'
    )
    parser.add_argument(
        '--show', action='store_true', help='show the predictions in a window'
    )
    parser.add_argument(
        '--interval', type=int, default=1, help='draw every n-th image (1)'
    )
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds to show each window (2)'
    )
    parser.add_argument(
        '--no-pin-memory', action='store_true', help='do not pin batches in memory'
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation: that of the config, or else a horizontal flip',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='launcher of this process (set by dist_test.sh and slurm_test.sh)',
    )
    return parser.parse_args()


def main() -> None:
    """Reads the arguments and evaluates."""
    args = parse_args()
    # Imported here, so that -h does not take seconds.
    try:
        from mmirnet import apis, zoo
        from mmirnet.apis.command_line import one_line_errors, parse_options
    except ImportError as error:  # OpenMMLab is missing, or its version is wrong
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        args.cfg_options = parse_options(args.cfg_options)
        if args.runtime and args.checkpoint.startswith('irnet://'):
            args.checkpoint = str(zoo.fetch(args.checkpoint.removeprefix('irnet://')))
        apis.evaluate(**vars(args))


if __name__ == '__main__':
    main()
