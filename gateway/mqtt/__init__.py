"""MQTT 3.1.1 and 5.0: a server whose acknowledgements mean that the message is on stable storage.

    errors, reason_codes     what can go wrong, and its number on the wire
    wire, properties         fields and 5.0 properties
    packets, decode, encode  control packets, both versions, both directions
    topics                   names, filters, and the tree that matches them
    delivery                 one subscriber's window of QoS 1 and 2
    session, sessions        what outlives a connection; the table of clients
    inbound                  what a PUBLISH means: topic, route, record
    admission, control       CONNECT, and every other packet that is no PUBLISH
    connection               ... and its reading half: framing, and the hot path of PUBLISH
    broker                   what all connections share: rounds, storing, backpressure
    fanout                   a durable round to its local subscribers
    endpoint                 a connection's sending half and its life
    server                   asyncio: the only module here that knows a socket

The package re-exports nothing, for routing needs `topics` without the server.
"""

__all__: list[str] = []
