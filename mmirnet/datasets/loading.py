"""A transform that reads image files."""

import numpy as np
from mmcv import image as mmcv_image
from mmcv import transforms
from mmengine import fileio
from mmpretrain.registry import TRANSFORMS

from ..errors import first_line
from ..images import decode


@TRANSFORMS.register_module(force=True)
class LoadImageFromFile(transforms.LoadImageFromFile):
    """mmcv's transform with the image reader of prediction and runtime.

    The transform has mmcv's arguments and replaces mmcv's in MMPretrain's configs. If a
    config names mmcv's class itself, its method is replaced. The pixels are the same as
    mmcv's. A file that cannot be read is named in the error. Truncated files are
    refused, whereas OpenCV before version 5 fills them with grey.

    Raises:
        OSError: If a file is not an image.
    """

    def transform(self, results: dict) -> dict | None:
        """Reads the image at ``results['img_path']`` into ``results['img']``."""
        path = results['img_path']
        try:
            image = _decoded(self, _bytes(self, path), path)
        except Exception as error:
            if self.ignore_empty:
                return None
            if isinstance(error, OSError):  # it names the file
                raise
            reason = first_line(error)
            raise OSError(f'cannot read image {path}: {reason}') from error
        image = image.astype(np.float32) if self.to_float32 else image
        results['img'] = image
        results['img_shape'] = results['ori_shape'] = image.shape[:2]
        return results


def _bytes(loader: transforms.LoadImageFromFile, path: str) -> bytes:
    if loader.file_client_args is not None:
        client = fileio.FileClient.infer_client(loader.file_client_args, path)
        return client.get(path)
    return fileio.get(path, backend_args=loader.backend_args)


def _decoded(
    loader: transforms.LoadImageFromFile, data: bytes, path: str
) -> np.ndarray:
    flag, _, ignored = loader.color_type.partition('_')
    library = loader.imdecode_backend or mmcv_image.io.imread_backend
    if flag == 'unchanged' or library not in ('cv2', 'pillow'):
        image = mmcv_image.imfrombytes(data, loader.color_type, backend=library)
        if image is None:
            raise OSError(f'cannot read image {path}: {library} finds none in it')
        return image
    grey = flag == 'grayscale'
    image = decode(
        data, path, grey=grey, library=library, upright=not ignored, bgr=True
    )
    return image[..., 0] if grey else image


transforms.LoadImageFromFile.transform = LoadImageFromFile.transform
