"""One source: keeps a connection to a broker and reads it as fast as the log takes it.

A shell. Owns the connection's life (back-off, CONNECT, subscriptions, end) and the reading: in
slices, in the event loop's thread, and not at all while the intake is full. The broker may be away,
at the start too: that is a state and a line in the log, never an error of the gateway.

What is subscribed is kept in the log's state, so that a session that the broker kept is not
subscribed again: a broker would send its retained messages again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import threading
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING, Any

from bridge.backoff import Backoff
from gateway.ingest import Ingest
from gateway.sources.config import SourceConfig
from gateway.sources.intake import Incoming, Intake, Publish
from log import Committer, Log, LogError

if TYPE_CHECKING:
    from paho.mqtt.client import SocketLike

    from gateway.sources.client import BrokerClient

_log = logging.getLogger(__name__)

_TICK_S = 1.0
"""Keep-alive, and another try where the log took nothing."""

_STOP_S = 2.0
"""For the last acknowledgements; what does not go is sent again by the broker."""


class Source:
    """`start` and `stop` once each, in the loop's thread. The log must outlive it."""

    def __init__(
        self,
        config: SourceConfig,
        *,
        log: Log,
        ingest: Ingest,
        committer: Committer,
        publish: Publish,
        rng: Random,
    ) -> None:
        self._config = config
        self._log = log
        self._committer = committer
        self.intake = Intake(
            config.name,
            log=log,
            ingest=ingest,
            committer=committer,
            limits=config.limits,
            publish=publish,
            failed=self._end,
        )
        # The log's id is random and as old as the data: the broker's session is this log's.
        own = f"sluicegate-{config.name}-{log.journal.log_id.hex()[:8]}"
        self._client_id = config.client_id or own
        self._retry = Backoff(min_ms=config.limits.backoff_min_ms, rng=rng)
        self._client: BrokerClient | None = None
        self._socket: SocketLike | None = None
        self._is_reading = self._is_waiting_for_relief = False
        self._ended: asyncio.Future[str] | None = None
        self._is_up = self._is_stopping = False
        self._said = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._committer.add_participant(self.intake)
        self._task = self._loop.create_task(self._run(), name=f"source {self._config.name}")

    async def stop(self) -> None:
        """Reads no more; what was read is durable and acknowledged, within bounds."""
        client = self._client
        self._is_stopping = True
        self._stop_reading()
        if client is not None and self._is_up and self._log.failure is None:
            try:
                async with asyncio.timeout(_STOP_S):
                    self.intake.store()
                    await self._committer.flush()
                    client.disconnect()  # behind the acknowledgements, in paho's queue
                    if self._ended is not None:
                        await asyncio.wait([self._ended])
            except (LogError, TimeoutError) as error:
                _log.warning("source.stop_incomplete source=%s cause=%r", self._config.name, error)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._committer.remove_participant(self.intake)

    # -- the connection's life

    async def _run(self) -> None:
        name = self._config.name
        while True:
            try:
                reason = await self._connect_and_read()
            except (OSError, ValueError) as error:
                reason = str(error) or repr(error)
            except Exception as error:
                # Our bug, or paho's: loud, but the next connection may be without.
                _log.exception("source.bug source=%s", name)
                reason = repr(error)
            if self._log.failure is not None:
                return  # the gateway stops, and says why
            wait_ms = self._retry.failed(0, max_ms=self._config.limits.backoff_max_ms)
            # Once in each kind of trouble: a broker may be away for weeks.
            is_known = self._is_stopping or reason == self._said
            level = logging.DEBUG if is_known else logging.WARNING
            _log.log(
                level,
                "source.away source=%s broker=%s again_in_ms=%d stored=%d cause=%s",
                *(name, self._config.address, wait_ms, self.intake.stored_count, reason),
            )
            self._said = reason
            await asyncio.sleep(wait_ms / 1000)

    async def _connect_and_read(self) -> str:
        """One connection from its beginning to its end; gives why it ended. OSError, ValueError."""
        # Not without a source: paho takes 1 MiB and 35 ms.
        from gateway.sources.client import BrokerClient

        client = BrokerClient(self._config, self._client_id, self)
        self._ended = self._loop.create_future()
        await self._in_thread(client)
        self._client = client
        self._socket = client.socket()
        timeout = self._loop.call_later(
            self._config.limits.connect_timeout_ms / 1000, self._no_answer, client
        )
        try:
            self.wants_write(client, True)
            self._update_reading()
            while not self._ended.done():
                await asyncio.wait([self._ended], timeout=_TICK_S)
                self._tick(client)
            return self._ended.result()
        finally:
            timeout.cancel()
            self._drop(client)

    async def _in_thread(self, client: BrokerClient) -> None:
        """`client.open` in a thread that nobody has to wait for: names may take a minute."""
        done: asyncio.Future[None] = self._loop.create_future()

        def settle(error: BaseException | None) -> None:
            if done.cancelled():
                if (opened := client.socket()) is not None:
                    opened.close()
            elif error is None:
                done.set_result(None)
            else:
                done.set_exception(error)

        def run() -> None:
            error: BaseException | None = None
            try:
                client.open()
            except Exception as caught:
                error = caught
            try:
                self._loop.call_soon_threadsafe(settle, error)
            except RuntimeError:
                pass  # the loop is closed, and the process about to end

        threading.Thread(target=run, name=f"source-{self._config.name}", daemon=True).start()
        await done

    def _no_answer(self, client: BrokerClient) -> None:
        if client is self._client and not self._is_up:
            self._end("no answer to CONNECT in time")

    def _end(self, reason: str = "the log failed") -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(reason)

    def _drop(self, client: BrokerClient) -> None:
        self.closing(client)
        self._is_up = False
        self._client = None
        self.intake.disconnected()
        if (left := client.socket()) is not None:
            left.close()

    def _tick(self, client: BrokerClient) -> None:
        if client is self._client and self._socket is not None:
            client.loop_misc()
            if self.intake.has_held:
                self._store()

    # -- reading and writing

    def _readable(self) -> None:
        client, intake = self._client, self.intake
        if client is None:
            return
        try:
            for _ in range(self._config.limits.slice_count_max):
                before = intake.arrived_count
                client.loop_read()  # one packet; what comes of an error is told to `lost`
                if self._socket is None or intake.arrived_count == before:
                    break
        except Exception as error:
            # paho hands on what its callbacks raise: a failed log, or a bug of ours or its own.
            _log.error("source.read_failed source=%s", self._config.name, exc_info=error)
            self._end(repr(error))
            return
        self._store()
        pending = self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0
        if pending and self._is_reading:
            self._loop.call_soon(self._readable)  # decrypted already: the kernel has nothing new

    def _store(self) -> None:
        self.intake.store()
        if self.intake.has_held and self._committer.congested and not self._is_waiting_for_relief:
            self._is_waiting_for_relief = True
            self._committer.on_relief(self._relieved)
        self._update_reading()

    def _relieved(self) -> None:
        self._is_waiting_for_relief = False
        self._store()

    def _update_reading(self) -> None:
        """A broker whose messages we cannot take is not read: it keeps them."""
        if self._socket is None:
            return
        wanted = not self.intake.is_full and not self._is_stopping
        if wanted and not self._is_reading:
            self._loop.add_reader(self._socket.fileno(), self._readable)
            self._is_reading = True
        elif not wanted:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._is_reading and self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._is_reading = False

    # -- events of the connection

    def connected(self, client: BrokerClient, *, session_present: bool) -> None:
        config = self._config
        self._is_up = True
        self._retry.succeeded()
        self._said = ""
        _log.info(
            "source.connected source=%s broker=%s protocol=%s session=%s client_id=%s",
            *(config.name, config.address, config.protocol),
            *("kept" if session_present else "new", self._client_id),
        )
        self.intake.connected(client, session_present=session_present)
        before = self._subscribed()
        if before is not None and not session_present:
            _log.warning("source.session_lost source=%s missing=what came meanwhile", config.name)
        if session_present and before == self._wanted():
            return
        known = before["filters"] if session_present and before is not None else ()
        if gone := [each for each in known if each not in config.filters]:
            client.unsubscribe(gone)
        client.subscribe_to(config.filters, config.qos)

    def subscribed(self, client: BrokerClient, codes: Sequence[str | None]) -> None:
        refused = False
        for topic_filter, code in zip(self._config.filters, codes, strict=False):
            if code is not None:
                refused = True
                _log.error(
                    "source.subscription_refused source=%s filter=%s cause=%s",
                    *(self._config.name, topic_filter, code),
                )
        if not refused:
            _log.info("source.subscribed source=%s", self._config.name)
            self._log.put_state(self._state_key, json.dumps(self._wanted()).encode())
            self._committer.request()

    @property
    def _state_key(self) -> bytes:
        return b"source/%b/subscribed" % self._config.name.encode()

    def _wanted(self) -> dict[str, Any]:
        config = self._config
        return {
            "broker": str(config.address),
            "client_id": self._client_id,
            "filters": list(config.filters),
            "qos": config.qos,
        }

    def _subscribed(self) -> dict[str, Any] | None:
        """What this broker has subscribed for us, as far as we know."""
        kept = self._log.get_state(self._state_key)
        if kept is None:
            return None
        found: dict[str, Any] = json.loads(kept)
        wanted = self._wanted()
        is_same = all(found.get(key) == wanted[key] for key in ("broker", "client_id"))
        return found if is_same else None

    def message(self, message: Incoming) -> None:
        self.intake.arrived(message)

    def unreadable(self, message: Incoming) -> None:
        self.intake.unstorable(message, "its topic is not UTF-8")

    def released(self, packet_id: int) -> None:
        self.intake.released(packet_id)

    def lost(self, client: BrokerClient, reason: str) -> None:
        if client is self._client:
            self._end(reason)

    def wants_write(self, client: BrokerClient, wants: bool) -> None:
        if client is not self._client or self._socket is None:
            return  # it is being opened, in another thread
        if wants:
            self._loop.add_writer(self._socket.fileno(), client.loop_write)
        else:
            self._loop.remove_writer(self._socket.fileno())

    def closing(self, client: BrokerClient) -> None:
        """Before the socket is closed: its number may be another one's a moment later."""
        if client is self._client and self._socket is not None:
            self._stop_reading()
            self._loop.remove_writer(self._socket.fileno())
            self._socket = None
