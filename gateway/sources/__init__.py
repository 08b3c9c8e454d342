"""Sources: MQTT brokers that are there already, whose messages go into the log.

    config    what the file says of a source
    intake    from messages to the log, and from what is durable to acknowledgements; sans-I/O
    client    paho-mqtt, held back: nothing is acknowledged but when the intake says so
    source    the shell: connections, back-off, back-pressure

paho-mqtt is imported when a source starts, so a gateway without one does not pay for it.
"""
