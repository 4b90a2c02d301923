"""Classifies images with a packed model; needs mmirnet, numpy, safetensors, OpenCV.

The images are read and prepared as the test pipeline of the model's config does. If
the pipeline resizes with Pillow, Pillow is needed as well. If an image cannot be read,
it is named on stderr, the other images are classified, and the exit code is 1.
"""

import argparse


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('model', help='packed file, written by tools/deploy/pack.py')
    parser.add_argument(
        'images', nargs='+', help="files, folders, or patterns such as 'photos/*.jpg'"
    )
    parser.add_argument(
        '--topk', type=int, default=5, help='number of classes to print (5)'
    )
    parser.add_argument(
        '--threads',
        type=int,
        help='threads of the runtime (default: the cores of this process)',
    )
    args = parser.parse_args()
    try:
        from mmirnet.errors import MmirnetError
        from mmirnet.runtime import load
        from mmirnet.runtime.predictions import (
            Failures,
            check_topk,
            classify,
            image_files,
            report,
            result,
        )
    except ImportError as error:
        parser.exit(2, f'error: {error}\n')
    failures = Failures()
    try:
        check_topk(args.topk)
        session = load(args.model, threads=args.threads)
        images = image_files(args.images)
        for path, scores in classify(session, images, failures):
            head = session.packed.head
            entry = result(path, scores, session.classes, args.topk, head)
            print(report(**entry))
    except (MmirnetError, OSError) as error:
        parser.exit(2, f'error: {error}\n')
    if failures:
        parser.exit(1, f'{failures.summary(len(images))}\n')


if __name__ == '__main__':
    main()
