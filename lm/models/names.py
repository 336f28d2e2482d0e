"""Names of parameters."""


def name_of(path) -> str:
    """A parameter's name: its path in the tree joined by `/`."""
    return "/".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)
