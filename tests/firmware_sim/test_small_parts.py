"""Partitioner, payload, clocks, profiles, recordings, segment reading."""

import struct
from pathlib import Path
from random import Random

import pytest
from clocks import BackOff, DriftingClock
from disk_usage import measure
from errors import ProfileError, ReplayError
from kafka_place import murmur2
from outbox import WhenFull
from payload import encode_reading, sequence_of
from profiles import BUILT_IN, assign, load_profiles, with_qos
from recordings import load


@pytest.mark.parametrize(
    ("key", "hashed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_that_of_apache_kafkas_own_tests(key: bytes, hashed: int) -> None:
    assert struct.unpack(">i", struct.pack(">I", murmur2(key)))[0] == hashed


def test_a_reading_carries_its_sequence() -> None:
    assert sequence_of(encode_reading(7, 1, {"temp": 1.5, "weather": "rain"})) == 7


@pytest.mark.parametrize("payload", [b"", b"\xff", b"\x01", b"\xa1\x61s\x61x", b"\xa1\x61s\xf5"])
def test_other_bytes_carry_none(payload: bytes) -> None:
    assert sequence_of(payload) is None


def test_a_clock_drifts_within_its_bounds() -> None:
    clock = DriftingClock(drift_ppm_max=100, offset_ms_max=50, rng=Random(1), now_ms=1_000_000)
    after_an_hour_ms = 1_000_000 + 3_600_000
    assert abs(clock.read_ms(after_an_hour_ms) - after_an_hour_ms) <= 50 + 360 + 1
    assert clock.read_ms(after_an_hour_ms) != after_an_hour_ms


def test_back_off_grows_to_its_ceiling_and_starts_over() -> None:
    back_off = BackOff(min_ms=100, max_ms=800, rng=Random(1))
    waits = [back_off.next_ms() for _ in range(50)]
    assert all(50 <= wait <= 800 for wait in waits)
    assert max(waits) > 400
    back_off.reset()
    assert back_off.next_ms() <= 100


def test_a_fleet_has_each_profile_by_its_share() -> None:
    hand = assign(list(BUILT_IN.values()), 200, Random(1))
    assert {profile.name for profile in hand} == set(BUILT_IN)
    assert {profile.protocol for profile in hand} == {"3.1.1", "5.0"}
    assert hand == assign(list(BUILT_IN.values()), 200, Random(1))


def test_qos_can_be_forced() -> None:
    assert with_qos(BUILT_IN["tracker"], "2").qos == (2,)
    assert with_qos(BUILT_IN["tracker"], "mix").qos == (1, 2)
    with pytest.raises(ProfileError, match="mix"):
        with_qos(BUILT_IN["tracker"], "0")


def test_profiles_come_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text('[profile.cellar]\nprotocol = "3.1.1"\nqos = [1, 2]\nwhen_full = "drop-oldest"')
    profile = load_profiles(path)["cellar"]
    assert profile.qos == (1, 2)
    assert profile.when_full is WhenFull.DROP_OLDEST


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[profile.x]\ncolour = 1", "profile.x.colour: unknown; known: protocol"),
        ("[profile.x]\nqos = 3", "profile.x.qos: must be 1, 2"),
        ('[profile.x]\nprotocol = "4"', "must be one of 3.1.1, 5.0"),
        ("[profile.x]\nawake_ms = 5", "go together"),
        ("[profile.x]\nreading_interval_ms = true", "must be of type int"),
        ("[profile.x]\nin_flight_max = -1", "must not be negative"),
        ("[profile.x]\nin_flight_max = 900", "between 1 and outbox_count_max"),
        ('[profile.x]\nwhen_full = "burn"', "none of refuse-new, drop-oldest"),
        ("x = 1", "needs tables named"),
        ("x = ", "Invalid value"),
    ],
)
def test_a_bad_profile_is_told_where_and_what(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=said):
        load_profiles(path)


def test_the_built_in_recordings_are_real_and_whole() -> None:
    weather = load("seattle-weather")
    assert len(weather.rows) == 1461
    assert weather.rows[0] == {
        "date": "2012/01/01",
        "precipitation": 0,
        "temp_max": 12.8,
        "temp_min": 5,
        "wind": 4.7,
        "weather": "drizzle",
    }
    assert len(load("sf-temps").rows) > 8000


def test_a_csv_file_is_replayed_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "my data.csv"
    path.write_text("a,b\n1,x\n2.5,y\n")
    recording = load(str(path))
    assert recording.name == "my-data"
    rows = recording.from_row(1)
    assert [next(rows)["a"] for _ in range(3)] == [2.5, 1, 2.5]


@pytest.mark.parametrize("text", ["", "a,b\n", "a,b\n1\n", "a,b\n1,2,3\n"])
def test_a_bad_csv_is_a_named_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(ReplayError):
        load(str(path))


def test_records_are_counted_from_batch_headers(tmp_path: Path) -> None:
    def batch(record_count: int, body: bytes) -> bytes:
        rest = bytes(45) + struct.pack(">i", record_count) + body
        return struct.pack(">qi", 0, len(rest)) + rest

    folder = tmp_path / "streams" / "mqtt-0"
    folder.mkdir(parents=True)
    whole = batch(10, b"abc") + batch(5, b"defgh")
    (folder / f"{0:020d}.log").write_bytes(whole)
    (folder / f"{0:020d}.index").write_bytes(bytes(8))
    usage = measure(tmp_path)
    assert usage.record_count == 15
    assert usage.size_bytes == len(whole) + 8
