"""Generates `tandem/v1` from the contract: `python protos/generate.py [OUT]`, by default into the repository.

Messages and their type stubs come from all files, gRPC classes only from those that define a service. The
tools are those of the running interpreter, at the versions that pyproject.toml pins: another version writes
other bytes.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
PACKAGE = Path("tandem/v1")
_GENERATED = "*_pb2*.py*"
_INIT = '"""Generated from `protos/tandem/v1` by `make protos`: not to be edited."""\n'


def generate(out: Path) -> list[Path]:
    """Brings `out`/tandem/v1 up to date and returns its files. Raises RuntimeError where protoc fails.

    Only files that differ are written; stale ones are removed.
    """
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        _run_protoc(fresh)
        (fresh / PACKAGE / "__init__.py").write_text(_INIT)
        package = out / PACKAGE
        package.mkdir(parents=True, exist_ok=True)
        files = []
        for source in sorted((fresh / PACKAGE).iterdir()):
            file = package / source.name
            if not file.exists() or file.read_bytes() != source.read_bytes():
                shutil.copyfile(source, file)
            files.append(file)
        for stale in set(package.glob(_GENERATED)) - set(files):
            stale.unlink()
    return files


def _run_protoc(out: Path) -> None:
    files = sorted((PROTOS / PACKAGE).glob("*.proto"))
    services = [file for file in files if re.search(r"^service ", file.read_text(), re.MULTILINE)]
    scripts = Path(sys.executable).parent
    _protoc(
        f"--plugin={scripts / 'protoc-gen-mypy'}", f"--python_out={out}", f"--mypy_out=quiet:{out}", *files
    )
    _protoc(
        f"--plugin={scripts / 'protoc-gen-mypy_grpc'}",
        f"--grpc_python_out={out}",
        f"--mypy_grpc_out=quiet:{out}",
        *services,
    )


def _protoc(*arguments: str | Path) -> None:
    # In a process of its own: it forks for its plugins, and ends the whole process where something goes wrong.
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", *map(str, arguments)]
    if subprocess.run(command).returncode != 0:
        raise RuntimeError("protoc failed; its message is above")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Generate tandem/v1 from the contract.")
    parser.add_argument("out", nargs="?", type=Path, default=PROTOS.parent, help="folder to generate into")
    print(f"{len(generate(parser.parse_args().out))} files in {PACKAGE}")
