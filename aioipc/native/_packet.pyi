from aioipc.native._fd import FdStream

class PacketStream(FdStream):
    @property
    def packets(self) -> bool: ...
