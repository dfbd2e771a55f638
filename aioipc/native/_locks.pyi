LOCKED: int
GONE: int
FOREIGN: int
STALE: int
NOTE_BYTES: int

def hold_fifo(directory: int, name: bytes, shared: bool) -> int: ...
def own_fifo(
    directory: int,
    name: bytes,
    ledger: int,
    ledger_name: bytes,
    offset: int,
    state: int,
    state_after_death: int,
    pid: int,
    start_ticks: int,
    ahead_ns: int,
) -> tuple[int, int, bool] | int: ...
def let_go(fd: int) -> None: ...
def disown_fifo(
    fd: int,
    ledger: int,
    offset: int,
    number: int,
    state: int,
    pid: int,
    start_ticks: int,
    ahead_ns: int,
) -> None: ...
def is_at(fd: int, directory: int, name: bytes) -> bool: ...
def read_note(fd: int, offset: int) -> tuple[int, int, int, int, int] | None: ...
def write_note(
    fd: int, offset: int, number: int, state: int, pid: int, start_ticks: int, ahead_ns: int
) -> None: ...
