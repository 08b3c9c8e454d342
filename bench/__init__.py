"""What the gateway costs, measured beside its peers in the same run. Nothing here is a test.

    bench/ingest      MQTT in, beside mosquitto
    bench/bridge      a stored backlog to Apache Kafka, beside confluent-kafka's producer
    bench/footprint   bytes a message on disk and on the uplink, memory, time to the first PUBACK
    bench/micro       the hot path in pieces, to find what made a number above worse
    bench/all         all of them, into one report

Each prints tables and, with --json FILE, writes them as JSON. `--quick` takes seconds and only
shows that it works: its figures mean nothing. A figure is the median of interleaved repetitions,
with the lowest and highest beside it; servers and load are pinned to different cores.
"""
