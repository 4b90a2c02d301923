"""Trains a model from a config."""

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
        '--work-dir', help='folder for logs and checkpoints (work_dirs/CONFIG)'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from CHECKPOINT, or from the newest intact one in the work dir',
    )
    parser.add_argument(
        '--amp',
        action='store_true',
        help='automatic mixed precision: float16 on GPUs, bfloat16 on CPUs',
    )
    parser.add_argument(
        '--compile', action='store_true', help='compile the backbone with torch.compile'
    )
    parser.add_argument(
        '--capture',
        action='store_true',
        help='replay whole training steps as CUDA graphs (needs a GPU; sets '
        '--in-memory; --amp means bfloat16)',
    )
    parser.add_argument(
        '--in-memory',
        action='store_true',
        help='keep the images on the device and augment whole batches there',
    )
    parser.add_argument('--no-validate', action='store_true', help='skip validation')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help="scale the learning rate from the config's batch size to the actual one",
    )
    parser.add_argument(
        '--no-pin-memory', action='store_true', help='do not pin batches in memory'
    )
    parser.add_argument(
        '--no-persistent-workers',
        action='store_true',
        help='start new data workers each epoch',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action='extend',
        metavar='KEY=VALUE',
        help='override settings of the config, such as train_cfg.max_epochs=2 or '
        'key="[(a,b),(c,d)]" (quotation marks, no spaces)',
    )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='launcher of this process (set by dist_train.sh and slurm_train.sh)',
    )
    return parser.parse_args()


def main() -> None:
    """Reads the arguments and trains."""
    args = parse_args()
    # Imported here, so that -h does not take seconds.
    try:
        from mmirnet import apis
        from mmirnet.apis.command_line import one_line_errors, parse_options
    except ImportError as error:  # OpenMMLab is missing, or its version is wrong
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        args.cfg_options = parse_options(args.cfg_options)
        apis.train(**vars(args))


if __name__ == '__main__':
    main()
