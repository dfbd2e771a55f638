from aioipc.abc import Buffer

MAGIC: bytes
MAJOR: int
HEADER_BYTES: int
ROW_BYTES: int
CLOSED: int

class Page:
    def __init__(self, memory: Buffer) -> None: ...
    def open(self, kind: int, label: bytes, peer: int = 0) -> Row | None: ...

class Row:
    def add(self, word: int, number: int = 1) -> None: ...
    def put(self, word: int, number: int) -> None: ...
    def close(self) -> None: ...

def read_rows(
    memory: Buffer, first: int, count: int
) -> list[tuple[int, int, int, int, bytes, tuple[int, ...]]]: ...
