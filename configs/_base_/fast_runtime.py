# Compilation and channels-last (NHWC) memory format.
_base_ = './default_runtime.py'

default_hooks = dict(
    compile=dict(type='CompileHook'),
    channels_last=dict(type='ChannelsLastHook'),
)
