"""Prints the software bill of materials of the listener that this Python has installed, as CycloneDX 1.5.

Exits 1 when a dependency's licence is none that we have agreed to.
"""

import json
import re
import sys
from importlib.metadata import Distribution, distribution

# SPDX identifiers that ask for no more than the notice
PERMISSIVE = {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "MIT", "PSF-2.0"}
# The LGPL asks for more only of those who change the library itself; we use it as it is. Of two to choose from, MIT.
AGREED = {
    "psycopg": "LGPL-3.0-only",
    "psycopg-binary": "LGPL-3.0-only",
    "simplejson": "MIT OR AFL-2.1",
}
# What packages without a licence expression say instead.
WORDS = {
    "Apache 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Python Software Foundation License": "PSF-2.0",
}
_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)\s*(?:\[([^\]]*)\])?[^;]*(?:;(.*))?")


def main() -> None:
    """Writes the bill; exits with what is wrong."""
    found: dict[str, Distribution] = {}
    _collect("listener", set(), found)
    bad = []
    components = []
    for name, dist in sorted(found.items()):
        expression = licence(dist)
        if not _permitted(name, expression):
            bad.append(f"{name} {dist.version}: {expression or 'no licence is named'}")
        purl = f"pkg:pypi/{name}@{dist.version}"
        licences = [{"expression": expression}] if expression else []
        components.append(
            {
                "type": "library",
                "bom-ref": purl,
                "name": name,
                "version": dist.version,
                "purl": purl,
                "licenses": licences,
            }
        )
    json.dump(
        {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}, sys.stdout, indent=1
    )
    if bad:
        sys.exit("\n".join(["licences that nobody has agreed to:", *bad]))


def licence(dist: Distribution) -> str:
    """The SPDX expression, or what the older fields say, in SPDX's words; empty if nothing is said."""
    metadata = dist.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    said = [c.rsplit(" :: ", 1)[1] for c in metadata.get_all("Classifier", []) if c.startswith("License :: OSI")]
    said = said or [metadata.get("License") or ""]
    return " OR ".join(WORDS.get(word, word) for word in said)


def _permitted(name: str, expression: str) -> bool:
    if AGREED.get(name) == expression:
        return True
    return bool(expression) and all(word in PERMISSIVE for word in re.split(r" (?:AND|OR) ", expression))


def _collect(name: str, extras: set[str], found: dict[str, Distribution]) -> None:
    """Adds what `name` with `extras` needs at run time here, and what that needs."""
    dist = distribution(name)
    for line in dist.requires or ():
        match = _REQUIREMENT.match(line)
        assert match is not None, line
        wanted, its_extras, marker = _plain(match[1]), match[2], match[3] or ""
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        if extra is not None and extra[1] not in extras:
            continue
        try:
            known = _plain(distribution(wanted).metadata["Name"])
        except ModuleNotFoundError:
            # Not for this Python or this system.
            continue
        if known not in found or its_extras:
            found[known] = distribution(wanted)
            _collect(wanted, {e.strip() for e in (its_extras or "").split(",")}, found)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
