from trained_run import trained  # noqa: F401
