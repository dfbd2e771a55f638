"""Addresses: understood, printed back exactly, refused with the part that is wrong."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioipc.address import Address, check_name
from aioipc.errors import AddressError

GOOD: dict[str, dict[str, Any]] = {
    "pipe:": {},
    "stdio:": {},
    "fifo:/run/x": {"path": "/run/x"},
    "fifo:///run/x": {"path": "/run/x"},
    "fifo:/run/x?single": {"path": "/run/x", "options": frozenset({"single"})},
    "fifo:/run/what??single": {"path": "/run/what?", "options": frozenset({"single"})},
    "fifo:/run/what??": {"path": "/run/what?"},
    "unix:": {},
    "unix:/run/x": {"path": "/run/x"},
    "unix:///run/x": {"path": "/run/x"},
    "unix:/run/what?": {"path": "/run/what?"},
    "unix:/run/a b:c": {"path": "/run/a b:c"},
    "unix:/run/\udcff": {"path": "/run/\udcff"},
    "unix:" + 64 * "x": {"name": 64 * "x"},
    "unix:_A-Z.9": {"name": "_A-Z.9"},
    "unix:@abstract": {"abstract": "abstract"},
    "unix:@a/b@c": {"abstract": "a/b@c"},
    "unix:@" + 107 * "x": {"abstract": 107 * "x"},
    "unix+seqpacket:name": {"name": "name"},
    "unix+dgram:/run/x": {"path": "/run/x"},
    "tcp://localhost:0": {"host": "localhost", "port": 0},
    "tcp://127.0.0.1:65535": {"host": "127.0.0.1", "port": 65535},
    "tcp://[::1]:80": {"host": "::1", "port": 80},
    "tcp://[fe80::1%eth0]:80": {"host": "fe80::1%eth0", "port": 80},
    "tls://example.org:443": {"host": "example.org", "port": 443},
    "udp://b\xfccher.example:53": {"host": "b\xfccher.example", "port": 53},
    "shm:": {},
    "shm:name": {"name": "name"},
    "shm:/run/x": {"path": "/run/x"},
    "shm:fd=7": {"fds": (7,)},
    "shm:fd=7,8,9": {"fds": (7, 8, 9)},
    "mq:/jobs": {"name": "/jobs"},
    "mq:///jobs": {"name": "/jobs"},
    "mq:/" + 254 * "x": {"name": "/" + 254 * "x"},
    "sysv:4660": {"key": 0x1234},
    "sysv:0x1234": {"key": 0x1234},
    "sysv:0xffffffff": {"key": -1},
    "fd:0": {"fds": (0,)},
    "fd:3,4": {"fds": (3, 4)},
    "exec:python -c 'print(1)'": {"argv": ("python", "-c", "print(1)")},
    "exec:/bin/cat": {"argv": ("/bin/cat",)},
    "memory:": {},
    "memory:name": {"name": "name"},
    "carrier+pigeon-2.0://coop?seed=1": {},
}

BAD: dict[str, str] = {
    "": "the scheme is missing",
    "unix": "the scheme is missing",
    ":x": "wrong scheme ''",
    "Unix:x": "wrong scheme 'Unix'; right would be lower-case letters",
    "1x:y": "wrong scheme '1x'",
    "unix:/a\0b": "wrong rest '/a\\x00b'; right would be text without NUL",
    "unix:/\ud800": "without lone surrogates",
    "pipe:x": "wrong rest 'x'; right would be nothing",
    "stdio:3": "wrong rest '3'; right would be nothing",
    "fifo:": "wrong path ''; right would be an absolute path",
    "fifo:name": "wrong path 'name'; right would be an absolute path",
    "fifo:/x?double": "wrong option 'double'; right would be single",
    "fifo:/x?single&fast": "wrong option 'fast'; right would be single",
    "unix:.hidden": "wrong name '.hidden'; right would be 1 to 64",
    "unix:a/b": "wrong name 'a/b'",
    "unix:a b": "wrong name 'a b'",
    "unix:a\n": "wrong name 'a\\n'",
    "unix:" + 65 * "x": "wrong name",
    "unix:b\xfccher": "wrong name",
    "unix://run/x": "wrong host '//run/x'; right would be three slashes",
    "unix:@": "wrong abstract name ''; right would be 1 to 107 bytes",
    "unix:@" + 108 * "x": "right would be 1 to 107 bytes",
    "unix:@" + 54 * "\xe4": "right would be 1 to 107 bytes",
    "tcp:localhost:80": "wrong rest 'localhost:80'; right would be //host:port",
    "tcp://localhost": "the port is missing",
    "tcp://localhost:": "wrong port ''; right would be a number from 0 to 65535",
    "tcp://localhost:65536": "wrong port '65536'",
    "tcp://localhost:-1": "wrong port '-1'",
    "tcp://localhost:+1": "wrong port '+1'",
    "tcp://localhost:\u0663": "wrong port",
    "tcp://localhost:80/x": "wrong port '80/x'",
    "tcp://:80": "wrong host ''; right would be a host name or an IP address",
    "tcp://me@host:80": "wrong host 'me@host'",
    "tcp://a b:80": "wrong host 'a b'",
    "tcp://::1:80": "wrong host '::1'; right would be an IPv6 address in brackets",
    "tcp://[::1:80": "wrong host '[::1'",
    "tcp://[127.0.0.1]:80": "wrong host '127.0.0.1'; right would be an IPv6 address",
    "tcp://[]:80": "wrong host ''",
    "shm:fd=": "wrong descriptor ''; right would be a number such as 3",
    "shm:fd=x": "wrong descriptor 'x'",
    "shm:.x": "wrong name '.x'",
    "mq:jobs": "wrong path 'jobs'; right would be an absolute path",
    "mq:/a/b": "wrong queue name '/a/b'; right would be one slash",
    "mq:/": "wrong queue name '/'",
    "mq:/..": "wrong queue name '/..'",
    "mq:/" + 255 * "x": "right would be at most 254 bytes",
    "sysv:": "wrong key ''; right would be a number from 1 to 0xffffffff",
    "sysv:0": "wrong key '0'",
    "sysv:0x0": "wrong key '0x0'",
    "sysv:4294967296": "wrong key '4294967296'",
    "sysv:name": "wrong key 'name'",
    "fd:": "wrong descriptor ''",
    "fd:-1": "wrong descriptor '-1'",
    "fd:3,": "wrong descriptor ''",
    "fd:3,3": "wrong descriptors '3,3'; right would be each only once",
    "fd:3,4,5": "right would be one for both ways, or one to read and one to write",
    "fd:2147483648": "wrong descriptor '2147483648'",
    "exec:": "wrong command ''; right would be a program",
    "exec:''": "wrong command",
    "exec:echo 'x": "No closing quotation",
    "memory:a/b": "wrong name 'a/b'",
}

PARTS = ("path", "name", "abstract", "host", "port", "key", "fds", "argv", "options")


@pytest.mark.parametrize("text", GOOD)
def test_good(text: str) -> None:
    address = Address.parse(text)

    found = {part: getattr(address, part) for part in PARTS if getattr(address, part)}
    expected = {part: value for part, value in GOOD[text].items() if value}
    assert found == expected
    assert address.port == GOOD[text].get("port")
    assert str(address) == text


@pytest.mark.parametrize("text", BAD)
def test_bad(text: str) -> None:
    with pytest.raises(AddressError) as caught:
        Address.parse(text)

    assert str(caught.value).startswith("address ")
    assert BAD[text] in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_long_values_are_shortened() -> None:
    with pytest.raises(AddressError) as caught:
        Address.parse("unix:" + 100_000 * "x")

    assert len(str(caught.value)) < 1_000


def test_unknown_scheme_keeps_the_rest() -> None:
    address = Address.parse("carrier:pigeon:7")

    assert (address.scheme, address.rest) == ("carrier", "pigeon:7")


def test_an_address_is_parsed_already() -> None:
    address = Address.parse("unix:x")

    assert Address.parse(address) is address
    assert hash(address) == hash(Address.parse("unix:x"))


@pytest.mark.parametrize("host", ["localhost", "[::1]"])
def test_with_port(host: str) -> None:
    address = Address.parse(f"tcp://{host}:0").with_port(1234)

    assert str(address) == f"tcp://{host}:1234"
    assert address.port == 1234


def test_check_name() -> None:
    assert check_name("worker-7") == "worker-7"
    with pytest.raises(AddressError, match=r"wrong topic '\.\./x'"):
        check_name("../x", part="topic")


SCHEMES = sorted({text.partition(":")[0] for text in GOOD})


@given(st.sampled_from(SCHEMES), st.text() | st.text("/@:[].,%?='\" 0123456789abcx"))
def test_any_text_is_understood_or_refused(scheme: str, rest: str) -> None:
    text = f"{scheme}:{rest}"
    try:
        address = Address.parse(text)
    except AddressError:
        return

    assert str(address) == text
    assert Address.parse(str(address)) == address


@given(st.text())
def test_any_text_at_all(text: str) -> None:
    with contextlib.suppress(AddressError):
        assert str(Address.parse(text)) == text
