"""What software made a result: recorded in every manifest."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("rankshift", "torch", "triton", "transformers", "ray", "pyarrow", "duckdb", "numpy", "anndata")


def versions() -> dict[str, str]:
    """The versions of the installed packages by name, with those of Python and the platform."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
