import subprocess
import sys


def test_without_the_engine_the_rest_still_works():
    """As after an installation without a compiler."""
    code = (
        'import sys\n'
        "sys.modules['mmirnet.deploy._engine'] = None\n"
        'from mmirnet import deploy\n'
        'try:\n'
        '    deploy.instruction_sets()\n'
        'except ImportError as error:\n'
        '    print(error)\n'
    )
    result = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, check=True
    )
    assert 'was not built' in result.stdout
    assert 'Install a C++17 compiler' in result.stdout
