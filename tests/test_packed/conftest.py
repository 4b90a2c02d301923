from packed_models import packed_model  # noqa: F401
