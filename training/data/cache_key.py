"""What tokens that are kept on disk depend on besides rows, tokenizer and settings: our own code."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import transformers

import modeling_dvpo.text
from modeling_dvpo import version


def cache_key() -> str:
    """Of the versions and of the sources that read and tokenise.

    `datasets` keeps what it has computed under the name of the function, which is the same when the function does
    something else: tokens of an older version would be trained on. The sources count because versions change seldom.
    """
    return f"{version.__version__}-{transformers.__version__}-{_sources()}"


@functools.cache
def _sources() -> str:
    digest = hashlib.sha256()
    for room in (Path(modeling_dvpo.text.__file__).parent, Path(__file__).parent):
        for path in sorted(room.glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
