"""What a model writes is run where it can compute and nothing else, and it cannot pass without passing."""

from __future__ import annotations

import errno
import json
import os
import socket
import struct
import tempfile
import time
from pathlib import Path

import pytest

from bench.prompts import HUMANEVAL_20
from bench.quality import sandbox
from bench.quality.programs import program
from bench.quality.sandbox import Guards, Limits, Outcome, run_program, why_not
from bench.quality.seccomp import filter_for

PROBLEMS = [json.loads(line) for line in HUMANEVAL_20.read_text().splitlines()]
#: The filter has to be enough by itself: not every kernel lets anyone have namespaces.
GUARDS = [Guards(), Guards(namespaces=False)]

pytestmark = pytest.mark.skipif(why_not() is not None, reason=f"there is no sandbox here: {why_not()}")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where directories of programs are made."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def children() -> set[int]:
    """Processes that this one has started and not waited for, and those in their sessions."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                command = (folder / "cmdline").read_text()
            except OSError:
                continue
            if str(sandbox._JAIL) in command and f"PPid:\t{os.getpid()}\n" in (folder / "status").read_text():
                found.add(int(folder.name))
    return found


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem["task_id"])
def test_the_reference_solution_passes_and_an_empty_one_fails(problem: dict[str, str]) -> None:
    assert run_program(program(problem, problem["canonical_solution"])).outcome is Outcome.PASSED
    assert run_program(program(problem, "    return None\n")).outcome is Outcome.FAILED
    assert run_program(program(problem, "    return (\n")).why == "SyntaxError"


@pytest.mark.parametrize("guards", GUARDS)
@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.socket(socket.AF_INET)",
        "import socket; socket.socket(socket.AF_UNIX)",
        "import socket; socket.socketpair()",
        "import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:{port}', timeout=1)",
        "import os; os.fork()",
        "import subprocess; subprocess.run(['/bin/true'])",
        "import os; os.execv('/bin/true', ['true'])",
        "import os; os.kill(os.getppid(), 9)",
        "import os; os.killpg(0, 9)",
        "open('{file}', 'w')",
        "open('{file}', 'a')",
        "import os; os.open('{file}', os.O_RDONLY | os.O_TRUNC)",
        "import os; os.open('{folder}', os.O_TMPFILE | os.O_RDWR)",
        "import os; os.truncate('{file}', 0)",
        "import os; os.remove('{file}')",
        "import os; os.rename('{file}', '{file}.gone')",
        "import os; os.chmod('{file}', 0o777)",
        "import os; os.utime('{file}')",
        "import os; os.symlink('{file}', '{folder}/link')",
        "import os; os.mkdir('{folder}/new')",
        "import tempfile; tempfile.TemporaryFile()",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "import os; os.memfd_create('x')",
    ],
)
def test_what_is_not_computing_fails(attempt: str, guards: Guards, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("as it was")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        text = attempt.format(port=listener.getsockname()[1], file=file, folder=tmp_path)
        tried = f"try:\n    {text}\nexcept OSError:\n    pass\nelse:\n    raise SystemError\n"
        verdict = run_program(tried, guards=guards)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert verdict.outcome is Outcome.PASSED, verdict
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and file.read_text() == "as it was"


@pytest.mark.parametrize("guards", GUARDS)
@pytest.mark.parametrize(
    ("number", "arguments"), [(41, "2, 1, 0"), (425, "1, 0"), (435, "0, 0"), (56, "17, 0, 0, 0, 0")]
)
def test_the_kernel_refuses_not_the_library(number: int, arguments: str, guards: Guards) -> None:
    """socket, io_uring_setup, clone3 and clone, without Python or the C library between."""
    if os.uname().machine != "x86_64":
        pytest.skip("these are the numbers of x86_64")
    text = f"import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nassert c.syscall({number}, {arguments}) == -1\n"
    assert run_program(f"{text}assert ctypes.get_errno() == {errno.ENOSYS}\n", guards=guards).outcome is Outcome.PASSED


def test_threads_cannot_be_started() -> None:
    assert run_program("import threading\nthreading.Thread(target=print).start()\n").why == "RuntimeError"


@pytest.mark.parametrize("start", ["os.fork()", "os.posix_spawn('/bin/sleep', ['sleep', '60'], {})"])
def test_a_fork_bomb_has_no_children(start: str) -> None:
    assert run_program(f"import os\nwhile True: {start}\n").why == "OSError"
    assert not children()


def test_memory_is_limited() -> None:
    limits = Limits(memory_bytes=200 << 20)
    assert run_program("x = bytearray(100 << 20)\n", limits).outcome is Outcome.PASSED
    assert run_program("x = bytearray(200 << 20)\n", limits).why == "MemoryError"
    assert run_program("x = []\nwhile True: x.append(bytearray(1 << 20))\n", limits).why == "MemoryError"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("while True: pass", "SIGXCPU"),
        ("import signal; signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass", "SIGKILL"),
        ("import time; time.sleep(60)", "out of time"),
        ("import sys, time\nwhile True:\n    try: time.sleep(60)\n    except BaseException: pass", "out of time"),
    ],
)
def test_time_is_limited_and_nothing_is_left(text: str, why: str, temporary: Path) -> None:
    begun = time.monotonic()
    verdict = run_program(text, Limits(wall_seconds=10 if "SIG" in why else 1, cpu_seconds=1))
    assert verdict.outcome is Outcome.FAILED
    # The kernel kills at the hard limit, which is the same: either signal may be the one that ends it.
    assert verdict.why == why or ("SIG" in why and "SIG" in verdict.why)
    assert time.monotonic() - begun < 9
    assert not list(temporary.iterdir()) and not children()


WRITES_EVERYWHERE = """import os
for number in range(64):
    try: os.write(number, b'{"passed": ""}')
    except OSError: pass
os._exit(0)"""


@pytest.mark.parametrize(
    "cheat",
    [
        WRITES_EVERYWHERE, "import sys; sys.exit(0)", "import os; os._exit(0)", "raise SystemExit", "quit()",
        "print('passed')\nraise SystemExit",
        "import atexit, os; atexit.register(os._exit, 0)\nraise SystemExit(0)",
        "import ctypes; ctypes.string_at(0)",
        "def check(candidate): pass",
        "import builtins; builtins.AssertionError = type('Never', (Exception,), {})",
        "import sys; sys.excepthook = print",
    ],
)  # fmt: skip
def test_a_wrong_function_does_not_pass_by_ending_early(cheat: str) -> None:
    problem = {
        "prompt": "def double(x):\n", "entry_point": "double",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
    }  # fmt: skip
    # Given as part of the prompt: a completion is cut where something follows the function.
    wrong = {**problem, "prompt": f"{cheat}\n\n{problem['prompt']}"}
    assert run_program(program(wrong, "    return x\n")).outcome is Outcome.FAILED
    within = "".join(f"    {line}\n" for line in cheat.splitlines())
    assert run_program(program(problem, f"{within}    return x\n")).outcome is Outcome.FAILED


def test_a_program_has_a_directory_and_a_python_of_its_own(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "secret")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    with open(__file__) as _:
        text = (
            "import os, sys\n"
            f"assert os.path.dirname(os.getcwd()) == {str(temporary)!r} and os.listdir() == []\n"
            "assert set(os.environ) <= {'LC_CTYPE'}, os.environ\n"  # set by Python itself
            f"links = [os.readlink('/proc/self/fd/%d' % number) for number in range(3)]\n"
            "assert links == ['/dev/null'] * 3\n"
            f"assert not any({__file__!r} == os.path.realpath('/proc/self/fd/%s' % n) for n in range(64))\n"
            "assert input.__self__ and __name__ == 'candidate'\n"
            "for name in ('numpy', 'bench', 'pytest'):\n"
            "    try: __import__(name)\n"
            "    except ImportError: continue\n"
            "    raise SystemError(name)\n"
        )
        assert run_program(text) == sandbox.Verdict(Outcome.PASSED)
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("guards", [Guards(namespaces=False, filter=False), Guards(filter=False)])
def test_what_cannot_be_kept_in_is_not_run(guards: Guards, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    verdict = run_program(f"open({str(touched)!r}, 'w')", guards=guards)
    if not guards.namespaces:
        assert verdict == sandbox.Verdict(
            Outcome.REFUSED, "it could reach the network: no namespaces, no filter of system calls"
        )
        assert why_not(guards) == verdict.why
    if verdict.outcome is Outcome.REFUSED:
        assert not touched.exists()
    else:  # a user other than root, whose processes are limited, in a namespace without a network
        reach = "import socket; socket.create_connection(('127.0.0.1', 1), 1)"
        assert run_program(reach, guards=guards).outcome is Outcome.FAILED


def _run_filter(machine: str, architecture: int, number: int, *arguments: int) -> int:
    """What the kernel would do with a call: the filter's instructions, interpreted as bpf(4) says."""
    data = struct.pack("=iIQ6Q", number, architecture, 0, *arguments, *[0] * (6 - len(arguments)))
    code = filter_for(machine)
    assert code is not None
    at = accumulator = 0
    while True:
        operation, if_true, if_false, operand = struct.unpack_from("=HBBI", code, 8 * at)
        at += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, operand)
        elif operation == 0x06:
            return operand
        else:
            holds = accumulator == operand if operation == 0x15 else accumulator & operand
            at += if_true if holds else if_false


ALLOW, NOT_THERE, NO_ACCESS, KILL = 0x7FFF0000, 0x50000 | errno.ENOSYS, 0x50000 | errno.EACCES, 0x80000000
X86_64, AARCH64 = 0xC000003E, 0xC00000B7


@pytest.mark.parametrize(
    ("machine", "architecture", "harmless", "harmful"),
    [
        # read, write, mmap, exit_group; socket, connect, clone, fork, vfork, execve, kill, ptrace, unlink, rename
        ("x86_64", X86_64, [0, 1, 9, 231], [41, 42, 56, 57, 58, 59, 62, 101, 87, 82, 425, 435, 437, 2**30 + 41]),
        # the same; socket, connect, clone, execve, kill, ptrace, unlinkat, renameat2, io_uring_setup, clone3, openat2
        ("aarch64", AARCH64, [63, 64, 222, 94], [198, 203, 220, 221, 129, 117, 35, 276, 425, 435, 437]),
    ],
)
def test_the_filter_lets_through_what_computes(
    machine: str, architecture: int, harmless: list[int], harmful: list[int]
) -> None:
    assert [_run_filter(machine, architecture, number) for number in harmless] == [ALLOW] * len(harmless)
    assert [_run_filter(machine, architecture, number) for number in harmful] == [NOT_THERE] * len(harmful)
    other = AARCH64 if architecture == X86_64 else X86_64
    assert _run_filter(machine, other, harmless[0]) == KILL
    openat = 257 if machine == "x86_64" else 56
    for flags, answer in [(os.O_RDONLY, ALLOW), (os.O_WRONLY, NO_ACCESS), (os.O_RDWR | os.O_CLOEXEC, NO_ACCESS)]:
        assert _run_filter(machine, architecture, openat, 0, 0, flags) == answer
    assert sum(_run_filter(machine, architecture, number) == ALLOW for number in range(500)) < 70
    assert filter_for("riscv64") is None
