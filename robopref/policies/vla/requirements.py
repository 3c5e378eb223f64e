"""The optional libraries that vision-language-action models need, imported on first use."""

from __future__ import annotations

import importlib
from typing import Any

from robopref.errors import RoboprefError

_EXTRA = {"bitsandbytes": "pip install 'robopref[quantize]'"}


def require(module: str) -> Any:
    """Import ``module``.

    Raises:
        RoboprefError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        how = _EXTRA.get(module.partition(".")[0], "pip install 'robopref[vla]'")
        raise RoboprefError(
            f"vision-language-action models need {module}, which cannot be imported ({error}). Run: {how}"
        ) from error
