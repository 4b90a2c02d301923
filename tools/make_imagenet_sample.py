"""Makes a small folder in ImageNet's layout from scikit-learn's two photographs.

Each photograph is a class. The images are random crops of it, saved as JPEG in
OUT/train/CLASS and OUT/val/CLASS. Use the folder to try ImageNet configs.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'out', type=Path, help='folder to create (data_root of the config)'
    )
    parser.add_argument(
        '--train', type=int, default=64, help='training images per class (64)'
    )
    parser.add_argument(
        '--val', type=int, default=16, help='validation images per class (16)'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the crops (0)')
    args = parser.parse_args()
    if min(args.train, args.val) < 1:
        parser.error('--train and --val: give a whole number from 1 on')
    if args.seed < 0:
        parser.error('--seed: give a whole number from 0 on')
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f'cannot create the folder {args.out}: {error.strerror}')
    return args


def main() -> None:
    """Cuts and saves the crops."""
    args = parse_args()
    rng = np.random.default_rng(args.seed)
    sample = load_sample_images()
    for name, photograph in zip(sample.filenames, sample.images, strict=True):
        height, width = photograph.shape[:2]
        for split, number in (('train', args.train), ('val', args.val)):
            folder = args.out / split / Path(name).stem
            folder.mkdir(parents=True, exist_ok=True)
            for i in range(number):
                size = int(rng.integers(96, 384))
                top = int(rng.integers(height - size))
                left = int(rng.integers(width - size))
                crop = photograph[top : top + size, left : left + size]
                Image.fromarray(crop).save(folder / f'{i:04}.jpg', quality=90)
            print(f'{folder}: {number} images')


if __name__ == '__main__':
    main()
