"""What is installed besides the core: the optional packages, by the extra of pyproject.toml that brings them.

A missing one is told in a line that says what to install; nothing here imports any of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rankshift.screen.errors import InputError

# Extra -> the modules of it that are imported. Where several bring a module, the first is named.
EXTRAS = {
    "cluster": ("ray",),
    "train": ("transformers", "sklearn", "matplotlib"),
    "plots": ("matplotlib", "plotly", "sklearn", "umap"),
    "fast": ("numba",),
    "lora": ("peft",),
    "tune": ("ray", "optuna"),
    "tensorboard": ("tensorboard",),
    "hub": ("huggingface_hub",),
    "xlsx": ("openpyxl",),
    "explore": ("starlette", "uvicorn", "anyio"),
}


def installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # an import hook that knows it is not there
        return False


def need(extra: str, what: str, *modules: str) -> None:
    """Refuse `what` where the modules of an extra are not installed (`modules`: those of them that it uses)."""
    missing = [module for module in modules or EXTRAS[extra] if not installed(module)]
    if missing:
        raise InputError(_line(what, missing[0], extra))


@contextmanager
def said() -> Iterator[None]:
    """A module of an extra that is not found in the block is told by InputError; other modules are faults as before."""
    try:
        yield
    except ModuleNotFoundError as error:
        top = (error.name or "").split(".")[0]
        for extra, modules in EXTRAS.items():
            if top in modules:
                raise InputError(_line("this", top, extra)) from error
        raise


def _line(what: str, module: str, extra: str) -> str:
    return f'{what} needs {module}, which is not installed: pip install "rankshift[{extra}]"'
