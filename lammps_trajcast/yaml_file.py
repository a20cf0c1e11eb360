"""Reading of YAML files that users write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def read_yaml(path: Path, failure: type[Exception]) -> Any:
    """Return the content of a YAML file.

    Raises ``failure``, with one line that names the file, if it cannot be read or is no YAML.
    """
    try:
        return yaml.safe_load(path.read_text())
    except OSError as error:
        raise failure(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise failure(f"{path}: not YAML: {' '.join(str(error).split())}") from None
