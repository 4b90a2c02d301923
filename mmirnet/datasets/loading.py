"""Reading images from files."""

from mmpretrain.datasets import transforms
from mmpretrain.registry import TRANSFORMS


@TRANSFORMS.register_module(force=True)
class LoadImageFromFile(transforms.LoadImageFromFile):
    """mmcv's transform, naming the file that cannot be read.

    OpenCV's own error for an empty or damaged image does not say which of a million
    it was. Takes mmcv's arguments, and its place in MMPretrain's configs.

    Raises:
        OSError: If a file is no image.
    """

    def transform(self, results: dict) -> dict | None:
        """Read the image at ``results['img_path']`` into ``results['img']``."""
        try:
            return super().transform(results)
        except FileNotFoundError:
            raise
        except Exception as error:
            reason = str(error).strip().splitlines()[0]
            raise OSError(
                f'cannot read image {results["img_path"]}: {reason}'
            ) from error
