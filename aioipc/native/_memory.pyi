class Mapping:
    @property
    def size(self) -> int: ...
    @property
    def writable(self) -> bool: ...
    def __init__(
        self,
        fd: int,
        size: int,
        *,
        writable: bool = True,
        populate: bool = True,
        inherited: bool = False,
        private: bool = False,
    ) -> None: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
