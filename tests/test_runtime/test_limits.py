"""What Python and the native code both state."""

from mmirnet.packed import limits
from mmirnet.runtime import plan, session


def test_python_and_the_native_code_agree():
    stated = {**vars(limits), **vars(plan), **vars(session)}
    native = session._native.LIMITS
    assert len(native) == 10
    assert native == {name: stated[name] for name in native}
