from aioipc.abc import Buffer
from aioipc.errors import DecodeError

MAX_DEPTH: int

def scan(format: str | None, buffer: Buffer, max_depth: int, max_elements: int) -> None: ...
def error_of(problem: int, max_depth: int, max_elements: int) -> DecodeError: ...
