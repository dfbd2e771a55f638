"""What the README and docs/ say is so: code runs, links lead somewhere, dumps are the bytes."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import os
import re
import socket
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import CodeType

import pytest

import aioipc
from aioipc import codecs
from aioipc.address import Address
from aioipc.limits import Limits
from aioipc.transports import FAMILIES
from aioipc.wire.framing import Flag, Kind, pack_header
from aioipc.wire.hello import Goodbye, GoodbyeCode, Hello, exception_for
from aioipc.wire.offer import Offer, pack_refusal
from aioipc.wire.shared import MOST_NUMBERS, Shared, What
from tests.children import PATIENCE_S, Peers

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}

FENCE = re.compile(
    r"(?:<!-- (?P<mark>[^>]*?) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")
NOT_ANCHOR = re.compile(r"[^\w\- ]")

NONCE = bytes(range(16))
MIB = 1024 * 1024


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        mark: What a comment right above it says: ``run`` for a shell block, ``output`` for what
            the block before prints, ``program: NAME`` for one that has a test of its own,
            ``dump: NAME`` for bytes.
    """

    page: str
    line: int
    mark: str
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: str) -> Iterator[Block]:
    text = TEXTS[page]
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text"))
        yield Block(page, line, match["mark"] or "", match["language"], match["text"])


BLOCKS = [block for page in TEXTS for block in blocks(page)]
END = Block("", 0, "", "", "")


def snippets() -> Iterator[tuple[Block, str | None]]:
    """Each Python block that stands for itself, and what it prints if the page says so."""
    for block, following in pairwise([*BLOCKS, END]):
        if block.language == "python" and not block.mark.startswith("program: "):
            yield block, following.text if following.mark == "output" else None


def program(name: str) -> str:
    (block,) = (block for block in BLOCKS if block.mark == f"program: {name}")
    return block.text


def dump(name: str) -> str:
    (block,) = (block for block in BLOCKS if block.mark == f"dump: {name}")
    return block.text


SNIPPETS = list(snippets())


# --- code ------------------------------------------------------------------------------


@pytest.mark.parametrize(("block", "output"), SNIPPETS, ids=[str(block) for block, _ in SNIPPETS])
@pytest.mark.asyncio
async def test_a_snippet_runs(
    block: Block, output: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: CodeType = compile(
        "\n" * block.line + block.text, ROOT / block.page, "exec", flags=flags, dont_inherit=True
    )
    async with asyncio.timeout(PATIENCE_S):
        waiting = eval(code, {"__name__": "snippet"})
        if inspect.iscoroutine(waiting):
            await waiting
    if output is not None:
        assert capsys.readouterr().out == output


PROGRAMS = [
    (block, following.text)
    for block, following in pairwise(BLOCKS)
    if block.mark.startswith("program: ") and following.mark == "output"
]


@pytest.mark.parametrize(("block", "output"), PROGRAMS, ids=[str(block) for block, _ in PROGRAMS])
def test_a_program_runs(block: Block, output: str, peers: Peers, tmp_path: Path) -> None:
    file = tmp_path / block.mark.removeprefix("program: ")
    file.write_text(block.text)
    peer = peers.file(file)
    assert peer.rest() == output
    assert peer.wait() == 0


SHELL = [
    (block, following.text)
    for block, following in pairwise(BLOCKS)
    if block.mark == "run" and following.mark == "output"
]


@pytest.mark.parametrize(("block", "output"), SHELL, ids=[str(block) for block, _ in SHELL])
def test_a_shell_block_runs(block: Block, output: str) -> None:
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, output), done.stderr


def test_the_program_in_the_readme(peers: Peers, tmp_path: Path) -> None:
    hello = tmp_path / "hello.py"
    hello.write_text(program("hello.py"))
    server = peers.file(hello, "serve")
    assert server.line() == "listening on unix:hello"

    client = peers.file(hello)

    assert client.rest() == f"{{'hello': 'world', 'your pid': {client.pid}}}\n"
    assert client.wait() == 0
    server.signal(2)
    server.wait()


def test_the_program_in_the_readme_is_short() -> None:
    assert len(program("hello.py").splitlines()) <= 20


def test_the_readme_gives_two_commands() -> None:
    shell = [block for block in blocks("README.md") if block.language == "sh"]
    assert re.findall(r"^make (\w+)", shell[0].text, re.MULTILINE) == ["demo", "test"]


@pytest.mark.asyncio
async def test_a_peer_written_from_the_page(
    peers: Peers, tmp_path: Path, runtime_dir: Path
) -> None:
    peer_py = tmp_path / "peer.py"
    peer_py.write_text(program("peer.py"))
    assert "aioipc" not in re.sub(r'".*?"', "", peer_py.read_text())
    async with aioipc.listen(f"unix:{runtime_dir}/page", codec="json") as listener:
        peer = peers.file(peer_py, listener.address.removeprefix("unix:"))
        async with asyncio.timeout(PATIENCE_S), await listener.accept() as channel:
            async for message in channel:
                await channel.send({"n": 2 * message["n"]})
        assert await peer.ended() == 0
    assert peer.rest() == "{'n': 40}\n"


# --- links -----------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """What a forge makes of the headings of a page."""
    headings = re.findall(
        r"^#+ (.*)$",
        re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL),
        re.MULTILINE,
    )
    return {NOT_ANCHOR.sub("", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*TEXTS, "benchmarks/README.md", "CHANGELOG.md"])
def test_links_lead_somewhere(page: str) -> None:
    for target in LINK.findall((ROOT / page).read_text()):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file.read_text()), target


def test_every_page_is_found_from_the_index() -> None:
    linked = {target.partition("#")[0] for target in LINK.findall(TEXTS["docs/index.md"])}
    pages = {page.name for page in DOCS.glob("*.md")}
    assert pages - linked == {"index.md"}


def test_the_readme_finds_every_example() -> None:
    assert "(examples)" in TEXTS["README.md"]


# --- the reference ---------------------------------------------------------------------


@pytest.mark.parametrize("name", aioipc.__all__)
def test_the_reference_has_every_public_name(name: str) -> None:
    assert re.search(rf"[`\s]{name}\b", TEXTS["docs/reference.md"])


@pytest.mark.parametrize("kind", [aioipc.Channel, aioipc.Listener], ids=lambda kind: kind.__name__)
def test_the_reference_has_every_method(kind: type) -> None:
    inherited = {name for base in kind.__mro__ if "anyio" in base.__module__ for name in vars(base)}
    own = {
        name
        for base in kind.__mro__
        if base.__module__.startswith("aioipc")
        for name in vars(base)
        if not name.startswith("_") and name not in {"port", "extra_attributes"}
    }
    assert own - inherited, "a Channel has methods of its own"
    for name in own:
        assert re.search(
            rf"`(await |async with )?{name}\b|, `{name}`", TEXTS["docs/reference.md"]
        ), name


def test_the_reference_has_every_limit() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", TEXTS["docs/reference.md"], re.MULTILINE))
    for name in Limits.__slots__:
        value = getattr(Limits(), name)
        assert rows[name] in {f"{value:,}", f"{value:g}", f"{value // MIB} MiB"}, name


def test_the_addresses_page_has_every_scheme_and_no_other() -> None:
    table = TEXTS["docs/addresses.md"].partition("`pair` takes")[0]
    schemes = set(re.findall(r"^\| `([a-z+]+):", table, re.MULTILINE))
    assert schemes == set(FAMILIES)
    for address in re.findall(r"`((?:tcp|unix|shm|fifo|fd|memory|exec)://?\S+?)`", table):
        Address.parse(address.replace("host:port", "localhost:80"))


@pytest.mark.parametrize("command", ["listen", "send", "run", "pub", "sub", "ls", "clean", "demo"])
def test_the_cli_page_has_every_option(command: str, peers: Peers) -> None:
    helped = peers.module("aioipc", command, "--help").rest()
    options = set(re.findall(r"^  (?:-\w, )?(--[\w-]+)", helped, re.MULTILINE))
    assert options > {"--help"}
    for option in options - {"--help"}:
        assert re.search(rf"^\| `{option}[` ]", TEXTS["docs/cli.md"], re.MULTILINE), option


def test_the_cli_page_has_every_exit_status(peers: Peers) -> None:
    helped = peers.module("aioipc", "--help").rest().partition("Exit status:")[2]
    for status in re.findall(r"^ +(\d+) ", helped, re.MULTILINE):
        assert f"\n| {status} |" in TEXTS["docs/cli.md"]


def test_the_codecs_page_has_every_codec() -> None:
    for name in codecs.BUILT_IN:
        assert f'| `"{name}"`' in TEXTS["docs/codecs.md"]


def test_the_error_tree_is_the_real_one() -> None:
    """Every error that anything raises today stands under its parent."""
    (tree,) = (
        block.text for block in blocks("docs/errors.md") if block.text.startswith("IPCError")
    )
    stack = [aioipc.IPCError]
    shown = {aioipc.IPCError}
    for line in tree.splitlines()[1:]:
        prefix, name = re.match(r"([^A-Z]*)(\w+)", line).groups()  # type: ignore[union-attr]
        kind = getattr(aioipc, name)
        del stack[len(prefix) // 4 :]
        assert stack[-1] in kind.__bases__
        for base in re.findall(r"[\w.]+", (re.search(r"\(.*\)", line) or [""])[0]):
            assert base.rpartition(".")[2] in {parent.__name__ for parent in kind.__mro__}
        stack.append(kind)
        shown.add(kind)
    reserved = TEXTS["docs/reference.md"].partition("nothing raises them")[2].partition("##")[0]
    for name in aioipc.errors.__all__:
        if name[0].isupper():
            assert getattr(aioipc, name) in shown or f"`{name}`" in reserved


# --- the wire format -------------------------------------------------------------------


def frame(kind: Kind, payload: bytes = b"", flags: int = 0, fds: int = 0) -> bytes:
    return pack_header(len(payload), kind, flags, fds) + payload


def hello(pid: int, nonce: bytes) -> bytes:
    return frame(Kind.HELLO, Hello("json", 64 * MIB, pid=pid, nonce=nonce).pack())


REASON = "the peer uses codec 'json', this side 'msgpack'"
GOODBYE = frame(Kind.GOODBYE, Goodbye().pack())
SERVER_NONCE = bytes(range(16, 32))
DUMPS = {
    "data": frame(Kind.DATA, b"x"),
    "fragments": frame(Kind.DATA, b"a", Flag.MORE) + frame(Kind.DATA, b"b"),
    "hello": hello(4242, NONCE),
    "goodbye": GOODBYE,
    "refusal": frame(Kind.GOODBYE, Goodbye(GoodbyeCode.CODEC_MISMATCH, REASON).pack()),
    "offer": Offer(1 * MIB, side=1).pack(),
    "lent": frame(Kind.DATA, Shared(What.PIPE).pack(), Flag.SHARED, 1)
    + frame(Kind.DATA, Shared(What.MEMORY, 1, MIB).pack(), Flag.SHARED, 1)
    + frame(Kind.DATA, Shared(What.MESSAGE, 1, 70_000).pack(), Flag.SHARED),
    "no ring": pack_refusal(Goodbye(GoodbyeCode.QUOTA_EXCEEDED, "too many")),
    "client": hello(4242, NONCE) + frame(Kind.DATA, b'{"n":20}') + GOODBYE,
    "server": hello(4243, SERVER_NONCE) + frame(Kind.DATA, b'{"n":40}') + GOODBYE,
}


def hexdump(data: bytes) -> str:
    """As ``hexdump -C`` shows it."""
    lines = []
    for offset in range(0, len(data), 16):
        row = data[offset : offset + 16]
        left, right = row[:8].hex(" "), row[8:].hex(" ")
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{offset:08x}  {left:<23}  {right:<23}  |{shown}|\n")
    return "".join(lines)


@pytest.mark.parametrize("name", DUMPS)
def test_a_dump_is_what_the_code_makes(name: str) -> None:
    assert dump(name) == hexdump(DUMPS[name])


@pytest.mark.asyncio
async def test_a_channel_writes_the_dumped_conversation() -> None:
    """The bytes of a real channel, but for the process id and the random nonce."""
    ours, theirs = socket.socketpair()
    with ours:
        address, limits = f"fd:{theirs.detach()}", Limits(max_fds=0)
        async with aioipc.connect(address, codec="json", limits=limits) as channel:
            await channel.send({"n": 20})
        sent = bytearray(ours.recv(1000))
    pid_at, nonce_at = 8 + 40, 8 + 24
    assert struct.unpack_from("<I", sent, pid_at) == (os.getpid(),)
    struct.pack_into("<I", sent, pid_at, 4242)
    sent[nonce_at : nonce_at + 16] = NONCE
    assert sent == DUMPS["client"]


@pytest.mark.asyncio
async def test_a_server_makes_the_dumped_offer(runtime_dir: Path) -> None:
    async with aioipc.listen(f"shm:{runtime_dir}/page") as listener:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(listener.address.removeprefix("shm:"))
            client.setblocking(False)
            data, fds = b"", list[int]()
            async with asyncio.timeout(PATIENCE_S):
                while not data:
                    await asyncio.sleep(0.001)
                    with contextlib.suppress(BlockingIOError):
                        data, fds, _, _ = socket.recv_fds(client, 1000, 10)
            try:
                assert data == DUMPS["offer"]
                memory, *bells = fds
                assert os.fstat(memory).st_size == 2 * (4096 + MIB)
                assert [os.readlink(f"/proc/self/fd/{bell}") for bell in bells] == [
                    "anon_inode:[eventfd]"
                ] * 2
            finally:
                for fd in fds:
                    os.close(fd)


def rows(page: str, header: str) -> list[list[str]]:
    """The cells of the table whose header line starts so."""
    _, _, rest = TEXTS[page].partition(f"\n{header}")
    table = rest.partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_tables_of_kinds_flags_and_codes() -> None:
    kinds = rows("docs/wire-format.md", "| kind | name | payload")
    assert {(int(number), name) for number, name, *_ in kinds} == {(k.value, k.name) for k in Kind}
    whats = rows("docs/wire-format.md", "| what | name")
    assert {(int(number), name, int(fds)) for number, name, fds, _ in whats} == {
        (what.value, what.name, Shared(what).fds) for what in What
    }
    assert f"from 1 to {MOST_NUMBERS};" in (ROOT / "docs/wire-format.md").read_text()
    flags = rows("docs/wire-format.md", "| flag | name")
    assert {(int(number), name) for number, name, *_ in flags} == {(f.value, f.name) for f in Flag}
    codes = rows("docs/wire-format.md", "| code | name")
    assert [(int(number), name) for number, name, *_ in codes] == [
        (code.value, code.name) for code in GoodbyeCode
    ]
    for number, _, _, raised in codes:
        assert type(exception_for(Goodbye(int(number)), "unix:/x")).__name__ == raised.strip("`")


def test_the_constants_of_waiting() -> None:
    source = (ROOT / "aioipc/native/_pacer.pyx").read_text()
    table = rows("docs/architecture.md", "| constant | value")
    assert len(table) > 5
    for name, value, _ in table:
        found = re.search(rf"\b{name.strip('`')} = ([\d_]+)", source)
        assert found, f"{name} of docs/architecture.md is not in _pacer.pyx"
        assert f"{int(found[1]):,}" == value, f"{name} in docs/architecture.md"


def test_code_is_not_wider_than_a_page() -> None:
    for block in BLOCKS:
        for line in textwrap.dedent(block.text).splitlines():
            assert len(line) <= (110 if block.mark == "output" else 100), f"{block}: {line}"
