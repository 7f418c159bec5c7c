"""`listener VERB` as a person runs it, inside this process."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from click.testing import CliRunner

from listener.cli import main


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a verb printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its standard output, read. Raises AssertionError when the verb failed."""
        assert self.code == 0, self.err
        return json.loads(self.out)


async def verb(environment: Mapping[str, str], *words: object) -> Said:
    """Runs a verb where nobody can be asked anything."""
    result = await asyncio.to_thread(CliRunner().invoke, main, [str(word) for word in words], env=dict(environment))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(code=result.exit_code, out=result.stdout, err=result.stderr)
