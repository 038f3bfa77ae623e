"""Ray's authentication token: it must be asked for before ray is imported, so the package does that when it is imported."""

import os
from pathlib import Path


def use_token() -> bool:
    """Speak to clusters with the token there is; returns whether there is one.

    By itself Ray looks for a token only where RAY_AUTH_MODE is set, or where it starts a cluster.
    """
    mode = os.environ.get("RAY_AUTH_MODE")
    if mode is not None:
        return mode == "token"
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    found = bool(os.environ.get("RAY_AUTH_TOKEN")) or path.is_file()
    if found:
        os.environ["RAY_AUTH_MODE"] = "token"
    return found
