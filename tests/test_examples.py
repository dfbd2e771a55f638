"""Every example, as a user would run it: a real process, how it ends and what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.children import PATIENCE_S

EXAMPLES = Path(__file__).parent.parent / "examples"


@dataclass(frozen=True)
class Run:
    """How an example ended, and what it said."""

    status: int
    out: str
    err: str


def environment() -> dict[str, str]:
    """What a user's shell gives, with the aioipc command in its PATH."""
    env = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    return {**env, "PATH": f"{Path(sys.executable).parent}:{env['PATH']}"}


def run(name: str, *arguments: str) -> Run:
    command = [sys.executable] if name.endswith(".py") else []
    done = subprocess.run(
        [*command, str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd="/",
        env=environment(),
    )
    return Run(done.returncode, done.stdout, done.stderr)


def test_every_example_has_its_test() -> None:
    tested = set(re.findall(r'run\("([\w./]+)"', Path(__file__).read_text()))
    scripts = {
        path.relative_to(EXAMPLES).as_posix()
        for path in EXAMPLES.rglob("*")
        if path.is_file() and path.suffix in {".py", ".sh"}
    }
    children = {"exec_worker/worker.py", "language_server/server.py"}
    assert scripts - tested == children, "the parent starts those"


@pytest.mark.parametrize("address", ["", "unix:echo", "unix:{}/echo.socket", "tcp://127.0.0.1:0"])
def test_echo_service(address: str, tmp_path: Path) -> None:
    addresses = [address.format(tmp_path)] if address else []

    done = run("echo_service.py", *addresses)

    assert done.status == 0, done.err
    assert "5 of 5 messages came back" in done.out
    assert "exit status 0" in done.out


def test_echo_service_at_an_impossible_address() -> None:
    done = run("echo_service.py", "unix:no/where")

    assert done.status == 1
    assert len(done.err.splitlines()) == 1
    assert "wrong name 'no/where'" in done.err


def test_worker_over_exec() -> None:
    done = run("exec_worker/parent.py")

    assert done.status == 0, done.err
    assert "job 'crash' was lost" in done.out
    assert "killed by SIGSEGV" in done.out
    assert done.out.endswith("4 jobs done by 2 workers\n")
    assert done.err.splitlines() == ["ready", "ready"], "each worker prints to standard error"


def test_typed_messages() -> None:
    done = run("typed_messages.py")

    assert done.status == 0, done.err
    assert "Expected `int`, got `str` - at `$.cents`" in done.out
    assert "Balance()\n    750 cents" in done.out


@pytest.mark.parametrize("kind", ["", "shm", "unix"])
def test_camera_frames(kind: str) -> None:
    done = run("camera_frames.py", *filter(None, [kind]))

    assert done.status == 0, done.err
    assert "1000 of 1000 frames of 640 x 480 pixels, each whole and in order\n" in done.out
    assert " frames/s, " in done.out
    assert f"over {kind or 'shm'}: " in done.out
    assert done.out.endswith("exit status 0\n")


def test_frame_buffer() -> None:
    done = run("frame_buffer.py")

    assert done.status == 0, done.err
    first, second, last = done.out.splitlines()
    assert first == "4 buffers of 6.2 MB, to write: False"
    assert re.fullmatch(r"200 frames, 1,244 MB of pictures in \d,\d{3} bytes", second)
    assert last == "the camera ended with exit status 0"


def test_handed_over() -> None:
    done = run("handed_over.py")

    assert done.status == 0, done.err
    assert done.out == "guest 0, you are visitor 0\n6 visitors, shared out as 3 and 3\n"


def test_safe_counter() -> None:
    done = run("safe_counter.py")

    assert done.status == 0, done.err
    assert done.out.startswith("repaired: the counter is ")
    assert done.out.endswith("workers ended with [-9, 0, 0, 0]\n101 steps, 101 expected\n")


def test_prime_workers() -> None:
    done = run("prime_workers.py")

    assert done.status == 0, done.err
    assert done.out == "17984 primes below 200000, statuses 0 and 0\n"
    ranges = re.findall(
        r"^\[count_primes \d+\] that was all: (\d+) ranges$", done.err, re.MULTILINE
    )
    assert sum(map(int, ranges)) == 20
    assert len(ranges) == 2


def test_reloading_service() -> None:
    done = run("reloading_service.py")

    assert done.status == 0, done.err
    assert done.out == (
        "Hello, Ada!\n"
        "Good evening, Ada! over the same connection\n"
        "the service ended with status 0\n"
    )
    assert re.search(r"read {'greeting': 'Good evening'} again, as process \d+ wished", done.err)


def test_activated_service() -> None:
    """tests/process/test_activation.py starts it as systemd does."""
    done = run("activated_service.py")

    assert done.status == 1
    assert done.err == "systemd has to start this: there is no socket called greeter\n"


@pytest.mark.parametrize("address", ["", "unix:", "tcp://127.0.0.1:0"])
def test_asyncio_moved(address: str) -> None:
    done = run("asyncio_moved.py", *filter(None, [address]))

    assert done.status == 0, done.err
    assert done.out.startswith("set colour green: done\nget colour: green\nget size: nothing\n")
    assert done.out.endswith(f"over {address.partition(':')[0] or 'shm'}: exit status 0\n")
    assert done.err == ""


def test_shell_pipeline() -> None:
    done = run("shell_pipeline.sh")

    assert done.status == 0, done.err
    assert "\n4\n30\n200\n" in done.out
    assert "\nnorth 7\nsouth 11\n" in done.out
    assert '\n{"level":"warn","pid":7}\n' in done.out
    assert done.out.endswith("\nexit status 1\n")


def test_key_value_store() -> None:
    done = run("key_value_store.py")
    assert (done.status, done.err) == (0, "a watcher has left\n")
    assert done.out.splitlines() == [
        "3 squared is 9",
        "refused: a key has at least one letter",
        "there: ['n/0', 'n/1', 'n/2', 'n/3']",
        "then: Change(key='n/2', value=None)",
    ]


@pytest.mark.parametrize(("limit", "said"), [("60", "17984 primes"), ("0.001", "out of time")])
def test_progress_bar(limit: str, said: str) -> None:
    done = run("progress_bar.py", limit)
    assert done.status == 0
    assert said in done.out
    assert "Traceback" not in done.err


def test_word_pool() -> None:
    done = run("word_pool.py", "60")
    assert done.status == 0, done.err
    assert re.match(
        r"118000 words in 59 texts, '\w+' most often\nlost: \[17\], workers that died: 1\n",
        done.out,
    )
    assert "counting" in done.err


def test_job_queue() -> None:
    done = run("job_queue.py")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        *(f"clumsy did job {number} at attempt 1" for number in range(3)),
        "clumsy ended with status -9",
        "careful did job 3 at attempt 2",
        *(f"careful did job {number} at attempt 1" for number in (4, 5)),
        "6 jobs done, 1 given twice",
    ]


def test_lasting_queue() -> None:
    done = run("lasting_queue.py")
    assert done.status == 0, done.err
    assert done.out.splitlines() == [
        "the server ended with status -9",
        "job 3 was done for a server that is gone",
        "6 jobs done",
    ]


def test_a_python_and_a_c_program_over_a_queue() -> None:
    done = run("mq_sensor/reader.py")
    assert (done.status, done.err) == (0, "")
    assert [line.split(":")[0] for line in done.out.splitlines()] == [
        *["priority 9"] * 2,
        *["priority 0"] * 3,
    ]


@pytest.mark.parametrize("address", ["", "unix:ticks"])
def test_ticker(address: str) -> None:
    done = run("ticker.py", *filter(None, [address]))

    assert (done.status, done.err) == (0, "")
    assert "published 400, and waited" in done.out
    found = re.findall(r"^(\w+) +(\d+) received, +(\d+) missed (.*);", done.out, re.MULTILINE)
    counts = {name: (int(received), int(missed)) for name, received, missed, _ in found}
    assert counts["block"] == (400, 0)
    for policy in ("drop_oldest", "drop_newest", "latest"):
        assert sum(counts[policy]) == 400
    assert counts["disconnect"][1] == 0


@pytest.mark.parametrize("address", ["", "unix:", "tcp://127.0.0.1:0"])
def test_web_service(address: str) -> None:
    done = run("web_service.py", *filter(None, [address]))
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        "2 4 6 8 10 12 14 16 18 20",
        "10,000,000 bytes",
        "HELLO",
        f"over {address.partition(':')[0] or 'shm'}: exit status 0",
    ]


def test_http_over_fifos() -> None:
    done = run("http_over_fifos.py")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        "200 7 bytes, /3: ONE",
        "200 7 bytes, /3: TWO",
        "200 50,008 bytes, /50000: THRE",
        "exit status 0",
    ]


def test_language_server() -> None:
    done = run("language_server/editor.py")
    assert (done.status, done.err) == (0, "")
    assert done.out.splitlines() == [
        "{'capabilities': {'hoverProvider': True}}",
        "[{'line': 1, 'message': 'over 40 characters'}]",
        "[{'contents': '4 words'}, {'contents': '13 words'}]",
        "the server has ended",
    ]
