"""Classify images with a published model, a packed file or a checkpoint."""

import argparse
import sys


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='If an image cannot be read, it is named on stderr, the other images '
        'are classified, and the exit code is 1.',
    )
    parser.add_argument(
        'images',
        nargs='+',
        metavar='IMAGE',
        help="image files, folders of images, or patterns such as 'photos/*.jpg'",
    )
    parser.add_argument(
        '--model',
        required=True,
        metavar='NAME',
        help='name of a model in the zoo, packed file (.safetensors), or the config of '
        '--checkpoint',
    )
    parser.add_argument('--checkpoint', metavar='FILE', help='checkpoint of a config')
    parser.add_argument(
        '--runtime', action='store_true', help='run a packed file on the 1-bit runtime'
    )
    parser.add_argument(
        '--engine',
        action='store_true',
        dest='runtime',
        help='former name of --runtime',
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='class names, or a text file with one name per line (default: those of '
        'the checkpoint, or else of the data set)',
    )
    parser.add_argument(
        '--topk', type=int, default=5, help='number of classes to print (5)'
    )
    parser.add_argument('--out', metavar='FILE', help='write the results as JSON')
    parser.add_argument(
        '--show-dir', metavar='FOLDER', help='draw the predictions into FOLDER'
    )
    return parser.parse_args()


def main() -> None:
    """Reads the arguments, classifies and prints."""
    args = parse_args()
    # Imported here, so that -h does not take seconds.
    try:
        from mmirnet.apis.command_line import one_line_errors
    except ImportError as error:  # OpenMMLab is missing, or its version is wrong
        argparse.ArgumentParser().exit(2, f'error: {error}\n')

    with one_line_errors():
        from mmirnet.apis.inference import infer
        from mmirnet.runtime.predictions import Failures, report

        failures = Failures()
        results = infer(**vars(args), failed=failures)
        for result in results:
            print(report(**result))
    if failures:
        sys.exit(failures.summary(len(failures) + len(results)))


if __name__ == '__main__':
    main()
