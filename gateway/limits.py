"""Every limit of MQTT and its connections, in one place, with its reason.

The log's are in log/limits.py, the bridge's in bridge/limits.py, the device table's in
devices/limits.py. All of these can be set in the configuration's [limits] table by these names.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttLimits:
    """What one client, and all of them together, may take of the gateway."""

    connections_max: int = 10_000
    """Open connections. Each costs 3.4 KiB of memory, measured, and a file descriptor."""

    connect_timeout_ms: int = 10_000
    """Time from TCP accept to a whole CONNECT. A slot that says nothing is not held for longer."""

    connections_per_address_max: int = 10_000
    """Open connections from one address (of IPv6: one /64). A whole plant may be behind one
    address, so by default only connections_max bounds it; lower it where devices come directly."""

    connect_rate_max: int = 10_000
    """Connections that one listener accepts in a second: no more can be accepted anyway, so by
    default none is refused. A TLS handshake takes about a millisecond; lower it where strangers
    reach the port. Who is refused is closed before a byte is read."""

    handshake_bytes_max: int = 16 * KIB
    """What comes before CONNECT is whole and is not MQTT: PROXY header, TLS handshake with the
    client's certificates, WebSocket upgrade. Above it and connect_bytes_max, the connection is
    closed."""

    authentications_waiting_max: int = 1_000
    """Clients whose passwords wait to be checked, in all; more are told that the server is busy.
    With mosquitto_passwd's 101 rounds a thread checks about 5,000 a second."""

    connect_bytes_max: int = 16 * KIB
    """Size of a CONNECT, checked on its Remaining Length before anything is buffered: before a
    client is known it can make us hold no more than this."""

    packet_bytes_max: int = 960 * KIB
    """Size of any other packet; told to 5.0 clients as Maximum Packet Size. Its record, which also
    has the key and headers, must fit into Kafka's default message.max.bytes (1,048,588)."""

    partial_bytes_max: int = 16 * MIB
    """Packets that have come in part, of all clients together: 10,000 of them could each leave
    960 KiB here. The client that would exceed it is disconnected."""

    keep_alive_s_max: int = 3_600
    """Longest keep-alive: a client that asks for more could hold a slot for ever (SlowITe) and is
    held to this. 5.0 clients are told so, also those that ask for none; a 3.1.1 client that asks
    for none expects never to be disconnected, so only TCP finds out that it is gone."""

    client_id_bytes_max: int = 256
    """The client id is the default key of every record, so it is stored and sent each time."""

    topic_bytes_max: int = 4 * KIB
    """Length of a topic name or filter; it is stored in a header of every record."""

    topic_levels_max: int = 200
    """Levels of a topic or filter. Matching walks a trie by level; 65,000 slashes once crashed a
    broker."""

    receive_max: int = 1_000
    """QoS 1 and 2 messages of one client that are not acknowledged yet. 5.0 clients are told; a
    3.1.1 client with more of QoS 1 is not read until acknowledgements are out. Its QoS 2 messages
    are bound by their 65,535 identifiers (2 bytes each): were it not read, it could not release
    them."""

    topic_alias_max: int = 64
    """Topic aliases that one 5.0 client may set. Each keeps its topic in memory."""

    subscriptions_max: int = 100
    """Filters of one client."""

    subscribe_filters_max: int = 100
    """Filters in one SUBSCRIBE or UNSUBSCRIBE."""

    user_properties_max: int = 64
    """User properties of one packet; those of a PUBLISH become headers of its record."""

    session_expiry_s_max: int = 7 * 24 * 3_600
    """Longest life of a session without a connection, whatever the client asks for."""

    sessions_max: int = 100_000
    """Sessions that are kept, connected or not."""

    delivery_in_flight_max: int = 100
    """QoS 1 and 2 messages sent to one subscriber and not acknowledged."""

    delivery_queue_bytes_max: int = 1 * MIB
    """Memory of QoS 1 and 2 messages that wait for one subscriber or its acknowledgement; what does
    not fit is read from the log later. QoS 0 never waits: it is dropped, and counted, when the
    subscriber's connection takes no more."""

    delivery_topic_alias_max: int = 128
    """Topic aliases towards one 5.0 subscriber, if it takes so many; 0: none. Each keeps its topic
    in memory: 200 bytes with one of 50 bytes, 4 KiB with the longest."""

    delivery_attempts_max: int = 10
    """A QoS 1 message that a subscriber was sent on so many connections, and acknowledged on none,
    goes to the dead letters: else one that makes a client fall over would stop its session for
    ever. 0: it is sent again for ever."""

    retained_max: int = 100_000
    """Retained messages. They are on flash, not in memory; a client that makes up topics would
    fill it. What is over a limit of these is stored, delivered and acknowledged, but not kept for
    later subscribers, and counted; an older one on its topic is outdated and goes."""

    retained_message_bytes_max: int = 256 * KIB
    """Payload of one: whoever subscribes is sent it, and `#` is sent all of them."""

    retained_bytes_max: int = 256 * MIB
    """All of them in the file, with topics and headers: the share of a small flash that state may
    take from the log."""

    write_buffer_bytes_max: int = 256 * KIB
    """Bytes given to one connection's transport and not taken by its peer; above it, deliveries
    to it wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLimits:
    """What one source, a broker that we subscribe to, may take of the gateway. They are set in its
    table [source.NAME.limits]."""

    in_flight_max: int = 1_000
    """Messages from the broker that it has no acknowledgement of; told to a 5.0 broker as Receive
    Maximum. More do not wait here: the broker is then not read. Each costs its payload in memory;
    a round of the log carries some hundred."""

    held_bytes_max: int = 4 * MIB
    """Bytes of messages that wait for the log to take them; above it the broker is not read."""

    slice_count_max: int = 100
    """Messages read in one turn of the event loop: some 3 ms, which other clients wait."""

    packet_bytes_max: int = 960 * KIB
    """Told to a 5.0 broker as Maximum Packet Size; a larger message would not fit into a record."""

    keep_alive_s: int = 30
    """A broker that is gone without a word is given up after twice this."""

    connect_timeout_ms: int = 10_000
    """Time for TCP, TLS and CONNACK together."""

    backoff_min_ms: int = 500
    backoff_max_ms: int = 60_000
    """Between two attempts to connect: it doubles from the least to the most."""

    session_expiry_s: int = 7 * 24 * 3_600
    """How long a 5.0 broker keeps our session, and so what we missed, while we are away. A 3.1.1
    broker keeps it for as long as it likes."""


DEFAULT_MQTT_PORT = 1883
"""The port registered for MQTT over TCP (MQTT 5.0, 4.2)."""
