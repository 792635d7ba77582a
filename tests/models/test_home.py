"""A folder of the cache is whole or not there, and one process makes it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from platformdirs import user_cache_path

from tandem.models import ModelError
from tandem.models.home import is_whole, make_once, tandem_home
from tests.models.checks import left_in_cache, refused

#: Makes `thing`: says that it began (in a file named by its process), waits for the gate, writes two files.
_WORKER = """
import os, sys, time
from pathlib import Path
from tandem.models.home import make_once

there = Path(sys.argv[1])

def make(folder):
    (folder / "first").write_text("1")
    (there / f"making-{os.getpid()}").touch()
    while not (there / "gate").exists():
        time.sleep(0.01)
    (folder / "second").write_text("by " + str(os.getpid()))

(there / f"started-{os.getpid()}").touch()
print((make_once("thing", make) / "second").read_text())
"""


def start(there: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", _WORKER, str(there)], stdout=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.01)


def write(folder: Path) -> None:
    (folder / "a").write_text("content")
    (folder / "b").write_text("more")


def never(folder: Path) -> None:
    raise AssertionError("is there already")


def test_of_two_processes_one_makes_the_folder_and_the_other_uses_it(home: Path, tmp_path: Path) -> None:
    first = start(tmp_path)
    wait_for(tmp_path / f"making-{first.pid}")
    second = start(tmp_path)
    wait_for(tmp_path / f"started-{second.pid}")
    assert not (home / "models" / "thing").exists()  # the half that is made is not there under its name
    assert first.poll() is None and second.poll() is None
    (tmp_path / "gate").touch()
    outputs = [process.communicate(timeout=60)[0].strip() for process in (first, second)]
    assert outputs == [f"by {first.pid}"] * 2
    assert len(list(tmp_path.glob("making-*"))) == 1
    assert left_in_cache(home) == ["thing"]


def test_after_a_process_was_killed_in_the_middle_the_next_makes_it_whole(home: Path, tmp_path: Path) -> None:
    killed = start(tmp_path)
    wait_for(tmp_path / f"making-{killed.pid}")
    waiting = start(tmp_path)
    wait_for(tmp_path / f"started-{waiting.pid}")
    killed.kill()
    killed.communicate(timeout=60)
    wait_for(tmp_path / f"making-{waiting.pid}")  # the lock died with its owner
    assert not (home / "models" / "thing").exists()
    (tmp_path / "gate").touch()
    assert waiting.communicate(timeout=60)[0].strip() == f"by {waiting.pid}"
    assert left_in_cache(home) == ["thing"]  # nothing of the killed one either
    assert is_whole(home / "models" / "thing")


def test_a_failure_in_the_middle_leaves_nothing(home: Path) -> None:
    def fail(folder: Path) -> None:
        write(folder)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make_once("thing", fail)
    assert left_in_cache(home) == []
    assert (make_once("thing", write) / "a").read_text() == "content"


def test_a_folder_that_is_whole_is_not_made_again_and_keeps_its_place(home: Path) -> None:
    folder = make_once("thing", write)
    assert folder == home / "models" / "thing" and is_whole(folder)
    assert make_once("thing", never) == folder
    assert make_once("other", write) != folder


@pytest.mark.parametrize("damage", ["file gone", "file cut", "manifest gone", "manifest cut", "only the manifest"])
def test_a_folder_that_is_not_whole_is_made_again(damage: str, home: Path) -> None:
    folder = make_once("thing", write)
    manifest = next(path for path in folder.iterdir() if path.name not in "ab")
    match damage:
        case "file gone":
            (folder / "a").unlink()
        case "file cut":
            (folder / "b").write_text("mo")
        case "manifest gone":
            manifest.unlink()
        case "manifest cut":
            manifest.write_text(manifest.read_text()[:-3])
        case _:
            (folder / "a").unlink()
            (folder / "b").unlink()
    (folder / "stray").touch()
    assert not is_whole(folder)
    assert make_once("thing", write) == folder and is_whole(folder)
    assert (folder / "b").read_text() == "more" and not (folder / "stray").exists()


def test_a_cache_that_cannot_be_written_is_named_with_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()  # not a folder without rights: tests may run as root
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path / "file"))
    with refused(ModelError, "cannot write the model cache", str(tmp_path / "file"), "set TANDEM_HOME"):
        make_once("thing", never)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TANDEM_HOME", str(tmp_path))
    assert tandem_home() == tmp_path
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TANDEM_HOME", "~/cache")
    assert tandem_home() == tmp_path / "cache"
    for unset in ("", None):
        monkeypatch.delenv("TANDEM_HOME") if unset is None else monkeypatch.setenv("TANDEM_HOME", unset)
        assert tandem_home() == user_cache_path("tandem")
