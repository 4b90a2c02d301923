"""Prints where pip put oneDNN: include folder; library; licence."""

from importlib.metadata import files


def find(package: str, name: str) -> str:
    """The path of a package's file whose name ends so."""
    return next(
        str(file.locate().resolve())
        for file in files(package)
        if str(file).endswith(name)
    )


if __name__ == '__main__':
    header = 'oneapi/dnnl/dnnl.h'
    print(
        find('onednn-devel-cpu-gomp', f'include/{header}').removesuffix(f'/{header}'),
        find('onednn-cpu-gomp', '/libdnnl.so.3'),
        find('onednn-cpu-gomp', 'onednn/LICENSE'),
        sep=';',
    )
