"""Classify images with a packed model: needs mmirnet, numpy, safetensors, Pillow."""

import argparse

import numpy as np

from mmirnet.deploy import load, read_image


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('model', help='a file written by tools/deploy/pack.py')
    parser.add_argument('images', nargs='+')
    parser.add_argument('--topk', type=int, default=5)
    parser.add_argument('--threads', type=int)
    args = parser.parse_args()
    try:
        engine = load(args.model, threads=args.threads)
        size = engine.input['height'], engine.input['width']
        for path in args.images:
            image = read_image(path, size, engine.input['channels'])
            logits = engine.predict(image[None])[0].astype(np.float64)
            scores = np.exp(logits - logits.max())
            scores /= scores.sum()
            print(path)
            for index in np.argsort(-scores)[: args.topk]:
                name = engine.classes[index] if engine.classes else f'class {index}'
                print(f'  {100 * scores[index]:6.2f} %  {name}')
    except (ValueError, OSError, ImportError) as error:
        parser.exit(2, f'error: {error}\n')


if __name__ == '__main__':
    main()
