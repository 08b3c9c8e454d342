"""One connection to one broker: aiokafka's, so that SASL and TLS are its own, with two things
added.

`ask` sends a request that kio describes. `produce` sends buffers that are framed already and calls
back: they are copied once, into the socket. Neither has a timer: `stalled` looks at the whole
connection, and its owner gives it up when neither an answer came nor a byte was acknowledged by the
peer's TCP for too long. So a slow link may take minutes for a request, and a dead one is found in
seconds.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import ssl
import struct
import termios
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaError
from kio.serial.errors import SerialError

from bridge import messages
from bridge.config import Address, UpstreamConfig
from bridge.errors import ProtocolMismatch, Unreachable
from bridge.wire import PRODUCE_KEY, PRODUCE_VERSION_MAX, PRODUCE_VERSION_MIN

DESCRIBE_PRODUCERS_KEY: Final = 61
_INT32: Final = struct.Struct(">i")
_REQUEST: Final = struct.Struct(">hhih")
_NO_TAGS: Final = b"\0"
_NATIVE_INT: Final = struct.Struct("i")


class Connection(AIOKafkaConnection):  # type: ignore[misc]
    """`open` it first. Everything is called in the loop's thread."""

    def __init__(
        self, address: Address, config: UpstreamConfig, on_close: Callable[[Connection], None]
    ) -> None:
        security = config.security
        super().__init__(
            address.host,
            address.port,
            client_id=config.client_id,
            request_timeout_ms=config.request_timeout_ms,
            ssl_context=security.ssl_context,
            security_protocol=security.protocol,
            sasl_mechanism=security.sasl_mechanism,
            sasl_plain_username=security.username,
            sasl_plain_password=security.password,
            on_close=lambda conn, _: on_close(conn),
        )
        self.address = address
        self.is_open = False
        self.answer_count = 0
        self.noted_count = 0
        self._client_id_bytes = config.client_id.encode()
        self._progress = (0, 0)
        self._progress_ms = 0

    async def open(self, *, connect_timeout_ms: int) -> None:
        """Connects, is let in, and learns the API versions. Unreachable, ProtocolMismatch."""
        self._request_timeout = connect_timeout_ms / 1000  # aiokafka's own, for what it asks itself
        try:
            await self.connect()
        except TimeoutError as error:
            raise Unreachable(
                f"{self.address}: no answer within {connect_timeout_ms} ms"
            ) from error
        except (OSError, KafkaError, ssl.SSLError) as error:
            raise Unreachable(f"{self.address}: {str(error) or type(error).__name__}") from error
        except (AssertionError, ValueError) as error:
            raise ProtocolMismatch(f"{self.address}: {error}") from error
        self.is_open = True

    @property
    def produce_version(self) -> int:
        """The highest that both sides speak. ProtocolMismatch if there is none."""
        low, high = self._versions.get(PRODUCE_KEY, (0, 0))
        version: int = min(high, PRODUCE_VERSION_MAX)
        if version < max(low, PRODUCE_VERSION_MIN):
            raise ProtocolMismatch(
                f"{self.address} speaks Produce {low}..{high}; {PRODUCE_VERSION_MIN}.."
                f"{PRODUCE_VERSION_MAX} are needed: Apache Kafka 2.8 or newer"
            )
        return version

    @property
    def tells_producers(self) -> bool:
        """Whether it has DescribeProducers: Apache Kafka since 2.8; a stand-in may not."""
        return DESCRIBE_PRODUCERS_KEY in self._versions

    @property
    def client_id(self) -> bytes:
        return self._client_id_bytes

    @property
    def pending_count(self) -> int:
        """Requests without an answer yet."""
        return len(self._requests)

    def next_correlation_id(self) -> int:
        return int(self._next_correlation_id())

    async def ask(self, request: Any) -> bytes:
        """The body of the answer to a request of messages.py. Unreachable, ProtocolMismatch."""
        key, version = int(request.__api_key__), int(request.__version__)
        low, high = self._versions.get(key, (0, -1))
        if not low <= version <= high:
            raise ProtocolMismatch(
                f"{self.address}: {type(request).__name__} {version} is needed, not {low}..{high}"
            )
        try:
            body = messages.encode(request)
        except SerialError as error:
            raise ProtocolMismatch(f"{type(request).__name__}: {error!r}") from error
        correlation_id = self.next_correlation_id()
        header = (
            _REQUEST.pack(key, version, correlation_id, len(self._client_id_bytes))
            + self._client_id_bytes
            + _NO_TAGS
        )
        size = len(header) + len(body)
        try:
            answer: bytes = await self._write((_INT32.pack(size), header, body), correlation_id)
        except (KafkaError, OSError) as error:
            raise Unreachable(f"{self.address}: {error}") from error
        return answer

    def produce(
        self,
        pieces: Sequence[bytes],
        correlation_id: int,
        answered: Callable[[asyncio.Future[bytes]], None],
    ) -> None:
        """Sends a framed Produce; `answered` gets a future with the body, or with why there is
        none.

        Unreachable if the connection is closed already; then `answered` is not called.
        """
        self._write(pieces, correlation_id).add_done_callback(answered)

    def _write(self, pieces: Sequence[bytes], correlation_id: int) -> asyncio.Future[bytes]:
        if self._writer is None:
            raise Unreachable(f"{self.address}: closed")
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._requests.append((correlation_id, _RAW_ANSWER, future))
        self._writer.writelines(pieces)
        return future

    def stalled(self, now_ms: int, patience_ms: int) -> bool:
        """True when requests wait and nothing has moved either way for `patience_ms`."""
        if not self._requests or self._writer is None:
            self._progress_ms = now_ms
            return False
        progress = (self.answer_count, self._unsent_bytes())
        if progress != self._progress:
            self._progress = progress
            self._progress_ms = now_ms
        return now_ms - self._progress_ms >= patience_ms

    def give_up(self) -> None:
        """Ends the connection at once; what waits for an answer is told so."""
        writer = self._writer
        self.close(reason=CloseReason.CONNECTION_TIMEOUT)
        if writer is not None:
            writer.transport.abort()

    def _unsent_bytes(self) -> int:
        """What is in our buffer, and what the kernel has and the peer has not acknowledged."""
        transport = self._writer.transport
        unsent: int = transport.get_write_buffer_size()
        peer = transport.get_extra_info("socket")
        if peer is not None:
            try:
                raw = fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, bytes(_NATIVE_INT.size))
            except OSError:
                return unsent
            unsent += _NATIVE_INT.unpack(raw)[0]
        return unsent

    def _handle_frame(self, resp: bytes) -> None:
        self.answer_count += 1
        super()._handle_frame(resp)


class _Header:
    __slots__ = ("correlation_id",)

    def __init__(self, correlation_id: int) -> None:
        self.correlation_id = correlation_id


class _RawAnswer:
    """Stands where aiokafka expects a request's struct: gives back the body undecoded.

    Every answer that the bridge asks for has the flexible header: correlation id, tagged fields.
    """

    RESPONSE_TYPE: type[_RawAnswer]

    @staticmethod
    def parse_response_header(buffer: io.BytesIO) -> _Header:
        (correlation_id,) = _INT32.unpack(buffer.read(_INT32.size))
        if buffer.read(1) != _NO_TAGS:
            raise ProtocolMismatch("an answer has tagged fields in its header")
        return _Header(correlation_id)

    @staticmethod
    def decode(buffer: io.BytesIO) -> bytes:
        return buffer.read()


_RawAnswer.RESPONSE_TYPE = _RawAnswer
_RAW_ANSWER: Final = _RawAnswer()
