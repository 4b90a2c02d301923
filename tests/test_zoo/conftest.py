from zoo_fixtures import alone, web  # noqa: F401
