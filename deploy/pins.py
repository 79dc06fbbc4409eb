"""Print what this interpreter has installed, as pins for `constraints.txt`.

`make pins` runs it in a fresh environment. A package that has left Python 3.10 behind is pinned
from 3.11 on only; on 3.10 pip picks the newest release that still runs there.
"""

from __future__ import annotations

import sys
from importlib.metadata import Distribution, distributions

from packaging.specifiers import SpecifierSet

OLDEST = "3.10"
NOT_OURS = {"flambeau", "pip", "setuptools"}  # the checkout itself, and what `venv` brings


def pin(distribution: Distribution) -> str:
    """The line for one package, e.g. `numpy==2.4.6; python_version >= "3.11"`."""
    version = distribution.version.partition("+")[0]  # `2.13.0+cpu` and `+cu130` are one release
    requires = distribution.metadata.json.get("requires_python", "")
    line = f"{distribution.name}=={version}"
    if SpecifierSet(str(requires)).contains(OLDEST):
        return line
    return f'{line}; python_version >= "3.11"'


def main() -> None:
    """Write the pins to standard output, sorted by name."""
    found = {d.name: pin(d) for d in distributions() if d.name.lower() not in NOT_OURS}
    sys.stdout.write(
        "# Exact versions for `pip install -c constraints.txt`; made by `make pins`.\n"
    )
    for name in sorted(found, key=str.lower):
        sys.stdout.write(found[name] + "\n")


if __name__ == "__main__":
    main()
