"""Ray's authentication token: it must be asked for before ray is imported, so the package does that when it is imported.

Ray reads its mode when it is imported and never again, and writes its token for everybody to read. So a first token is made
here, before that, for this user's eyes only.
"""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def token_path() -> Path:
    """Where the token is, or would be."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")


def use_token() -> bool:
    """Speak to clusters with the token there is; returns whether there is one.

    By itself Ray looks for a token only where RAY_AUTH_MODE is set, or where it starts a cluster.
    """
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is not None:
        return mode == "token"
    path = token_path()
    found = bool(os.environ.get("RAY_AUTH_TOKEN")) or path.is_file()
    if found:
        os.environ["RAY_AUTH_MODE"] = "token"
        _close(path)
    return found


def first_token() -> None:
    """Make a token where there is none and RAY_AUTH_MODE does not say otherwise, because Ray listens on all interfaces."""
    if use_token() or "RAY_AUTH_MODE" in os.environ:
        return
    path = token_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileExistsError):  # another command was faster: its token is ours
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
    use_token()


def _close(path: Path) -> None:
    """Take from others the right to read a token that Ray has written for all."""
    with suppress(OSError):  # of a token that was put there by somebody else, others decide
        if path.is_file() and path.stat().st_mode & 0o077:
            path.chmod(0o600)
        if "RAY_AUTH_TOKEN_PATH" not in os.environ and path.parent.is_dir() and path.parent.stat().st_mode & 0o077:
            path.parent.chmod(0o700)
