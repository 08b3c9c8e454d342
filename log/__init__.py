"""The durable partitioned log: a journal for all partitions, Kafka-format segments for each.

See ARCHITECTURE.md for the whole, store.py for the order of duties. In short:

    log = Log.open(directory, [StreamSpec(name="mqtt", partition_count=3)])
    committer = Committer(log, loop)                      # group commit, its own thread
    housekeeper = Housekeeper(log, committer, loop)       # sealing, checkpoints, retention
    log.append(log.partition("mqtt", 0), RecordTemplate(key, headers), [value])
    await committer.flush()                               # durable now, and only now
    log.partition("mqtt", 0).read(0, bytes_max=1 << 20)
"""

from log.committer import Committer, Participant
from log.errors import (
    Corrupt,
    CorruptBatch,
    CorruptCheckpoint,
    DiskFault,
    LogError,
    LogFailed,
    LogFull,
    LogLocked,
    LogUnusable,
    OffsetOutOfRange,
    PartitionsReduced,
    RecordTooLarge,
    RequestError,
    UnknownFormat,
    UnknownPartition,
)
from log.files import DiskFiles, Files
from log.housekeeper import Housekeeper
from log.limits import LogLimits
from log.opening import Stream
from log.partition import Partition
from log.rebatch import rebatch, stamp_producer
from log.record_batch import (
    INDEXED_HEADER,
    BatchHeader,
    Record,
    RecordTemplate,
    StoredBatch,
    decode_batch,
    encode_batch,
    parse_header,
)
from log.report import Lost, RecoveryReport
from log.scan import Scan, Selection, Wanted
from log.stats import LogStats
from log.store import Log
from log.streams import Retention, StreamSpec, name_problem

__all__ = [
    "INDEXED_HEADER",
    "BatchHeader",
    "Committer",
    "Corrupt",
    "CorruptBatch",
    "CorruptCheckpoint",
    "DiskFault",
    "DiskFiles",
    "Files",
    "Housekeeper",
    "Log",
    "LogError",
    "LogFailed",
    "LogFull",
    "LogLimits",
    "LogLocked",
    "LogStats",
    "LogUnusable",
    "Lost",
    "OffsetOutOfRange",
    "Participant",
    "Partition",
    "PartitionsReduced",
    "Record",
    "RecordTemplate",
    "RecordTooLarge",
    "RecoveryReport",
    "RequestError",
    "Retention",
    "Scan",
    "Selection",
    "StoredBatch",
    "Stream",
    "StreamSpec",
    "UnknownFormat",
    "UnknownPartition",
    "Wanted",
    "decode_batch",
    "encode_batch",
    "name_problem",
    "parse_header",
    "rebatch",
    "stamp_producer",
]
