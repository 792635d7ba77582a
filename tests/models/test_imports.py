"""The orchestrator and the command line run where neither torch nor transformers is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = "{'torch', 'transformers', 'safetensors', 'accelerate', 'gguf'}"


@pytest.mark.parametrize(
    "modules",
    [
        "orchestrator.server, orchestrator.__main__",
        "tandem.cli, tandem.cli.app",
        "tandem.models, tandem.models.embedded, tandem.tokenization",
    ],
)
def test_no_torch_is_imported(modules: str) -> None:
    code = f"import sys, {modules}; print(sorted({HEAVY} & {{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_a_tokenizer_is_read_and_used_where_torch_cannot_be_imported(embedded_folder: Path) -> None:
    code = (
        "import sys; sys.modules.update(torch=None, transformers=None)\n"
        "from pathlib import Path; from tandem.tokenization import IncrementalDecoder, Tokenizer\n"
        "tokenizer = Tokenizer.from_folder(Path(sys.argv[1]))\n"
        "ids = tokenizer.apply_chat_template([{'role': 'user', 'content': 'Hi'}])\n"
        "print(len(ids) > 5, IncrementalDecoder(tokenizer).push(tokenizer.encode('Hello')), tokenizer.fingerprint)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(embedded_folder)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("True Hello ")
