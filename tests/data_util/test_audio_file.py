"""Files as recorders, editors and networks leave them: what is in them counts, not what their header says."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from data_util.audio_file import AudioFile, DecodeError, full_scale, measure
from data_util.mp3_frames import scan

RATE = 16_000
SECONDS = 8.0


def sweep(seconds: float = SECONDS, rate: int = RATE) -> np.ndarray:
    """A tone whose pitch tells the time, so that a shift of the samples shows."""
    t = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * (300 * t + 40 * t**2))).astype(np.float32)


def encode(samples: np.ndarray, rate: int = RATE, form: str = "WAV", subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=form, subtype=subtype)
    return buffer.getvalue()


def mp3(samples: np.ndarray, rate: int = RATE) -> bytes:
    return encode(samples, rate, "MP3", "MPEG_LAYER_III")


def put(data: bytes, at: int, what: bytes) -> bytes:
    return data[:at] + what + data[at + len(what) :]


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if size is None else size) + body


def wav(size: Callable[[int], int] = lambda n: n, before: bytes = b"", after: bytes = b"") -> bytes:
    """A WAV file whose data chunk announces `size` of its true number of bytes."""
    data = encode(sweep())
    body = data[data.index(b"data") + 8 :]
    fmt = chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16))
    content = fmt + before + chunk(b"data", body, size(len(body))) + after
    return b"RIFF" + struct.pack("<I", (len(content) + 4) & 0xFFFFFFFF) + b"WAVE" + content


def sized(data: bytes, name: bytes, form: str, size: int, offset: int = 4) -> bytes:
    """`data` with another size in the header of a chunk."""
    return put(data, data.index(name) + offset, struct.pack(form, size))


def aiff(size: int, frames: int) -> bytes:
    data = encode(sweep(), form="AIFF")
    data = put(data, data.index(b"COMM") + 10, struct.pack(">I", frames))
    return sized(data, b"SSND", ">I", size)


def flac_of_unknown_length() -> bytes:
    data = bytearray(encode(sweep(), form="FLAC"))
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    return bytes(data)


def without_info(data: bytes) -> bytes:
    """An MP3 from its first frame of audio on."""
    segment = scan(io.BytesIO(data), len(data))[0]
    second = data.index(data[segment.begin : segment.begin + 2], segment.begin + 40)
    return data[second:]


def id3(n: int) -> bytes:
    return b"ID3\3\0\0" + bytes([0, 0, n >> 7, n & 127]) + bytes(n)


WHOLE: dict[str, Callable[[], bytes]] = {
    "wav": wav,
    "wav, length 0": lambda: wav(lambda n: 0),
    "wav, length FFFFFFFF": lambda: wav(lambda n: 0xFFFFFFFF),
    "wav, length 7FFFFFFF": lambda: wav(lambda n: 0x7FFFFFFF),
    "wav, RIFF length in the data chunk": lambda: wav(lambda n: n + 36),
    "wav, ten bytes short": lambda: wav(lambda n: n - 10),
    "wav, header not updated since the middle": lambda: wav(lambda n: n // 2),
    "wav, chunk of odd length without padding": lambda: wav(before=chunk(b"LIST", b"INFOabc")),
    "wav, chunk of odd length with padding": lambda: wav(before=chunk(b"LIST", b"INFOabc") + b"\0"),
    "wav, chunk behind the audio": lambda: wav(after=chunk(b"LIST", b"INFOabcd")),
    "wav in RF64": lambda: encode(sweep(), form="RF64"),
    "rf64, length 2^62": lambda: sized(encode(sweep(), form="RF64"), b"ds64", "<Q", 2**62, 16),
    "w64": lambda: encode(sweep(), form="W64"),
    "w64, length 0": lambda: sized(encode(sweep(), form="W64"), b"data", "<Q", 0, 16),
    "w64, length 2^62": lambda: sized(encode(sweep(), form="W64"), b"data", "<Q", 2**62, 16),
    "aiff": lambda: encode(sweep(), form="AIFF"),
    "aiff, length 0": lambda: aiff(0, 0),
    "aiff, length FFFFFFFF": lambda: aiff(0xFFFFFFFF, 0xFFFFFFFF),
    "aiff, length too long": lambda: aiff(0x7FFFFF00, 128_000),
    "au": lambda: encode(sweep(), form="AU"),
    "au, length 0": lambda: put(encode(sweep(), form="AU"), 8, bytes(4)),
    "au, length FFFFFFFF": lambda: put(encode(sweep(), form="AU"), 8, b"\xff" * 4),
    "caf": lambda: encode(sweep(), form="CAF"),
    "caf, length -1": lambda: sized(encode(sweep(), form="CAF"), b"data", ">q", -1),
    "caf, length 2^62": lambda: sized(encode(sweep(), form="CAF"), b"data", ">q", 2**62),
    "caf with ALAC, length 2^62": lambda: sized(encode(sweep(), RATE, "CAF", "ALAC_16"), b"data", ">q", 2**62),
    "flac": lambda: encode(sweep(), form="FLAC"),
    "flac of unknown length": flac_of_unknown_length,
    "24 bit, extensible": lambda: encode(sweep(), form="WAVEX", subtype="PCM_24"),
}
LOSSY: dict[str, tuple[Callable[[], bytes], float, float]] = {  # bytes, seconds, decoder delay at the start in s
    "mp3": (lambda: mp3(sweep()), 8.0, 0.0),
    "mp3 without a header": (lambda: without_info(mp3(sweep())), 8.05, 0.036),
    "mp3 behind junk": (lambda: bytes(5000) + mp3(sweep()), 8.0, 0.0),
    "mp3 behind a tag and zeros": (lambda: id3(20) + bytes(3000) + mp3(sweep()), 8.0, 0.0),
    "mp3 behind a picture": (lambda: with_picture(mp3(sweep())), 8.0, 0.0),
    "two mp3s joined": (lambda: mp3(sweep(5.0)) + mp3(sweep(3.0)), 8.0, 0.0),
    "two mp3s joined, each with tags": (
        lambda: id3(300) + mp3(sweep(5.0)) + id3(300) + mp3(sweep(3.0)) + b"TAG" + bytes(125),
        8.0,
        0.0,
    ),
    "two mp3s of other rates and channels joined": (
        lambda: mp3(sweep(5.0)) + mp3(np.stack([sweep(3.0, 44_100)] * 2, axis=1), 44_100),
        8.0,
        0.0,
    ),
    "ogg": (lambda: encode(sweep(), form="OGG", subtype="VORBIS"), 8.0, 0.0),
    "opus": (lambda: encode(sweep(), form="OGG", subtype="OPUS"), 8.0, 0.0),
}


def with_picture(data: bytes) -> bytes:
    """A tag of 3 MB before an MP3, full of what looks like the start of frames."""
    picture = b"APIC" + struct.pack(">I", 3_000_000) + b"\0\0\0image/jpeg\0\3\0" + b"\xff\xfb\x90\x64" * 750_000
    n = len(picture)
    return b"ID3\3\0\0" + bytes([n >> 21, (n >> 14) & 127, (n >> 7) & 127, n & 127]) + picture + data


def without_last_page(data: bytes) -> bytes:
    return data[: data.rindex(b"OggS")]


def stored(tmp_path: Path, data: bytes, ending: str = ".wav") -> Path:
    path = tmp_path / f"a{ending}"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("in_memory", [False, True])
def test_what_is_there_is_read_whatever_the_header_says(name: str, in_memory: bool, tmp_path: Path) -> None:
    data = WHOLE[name]()
    with AudioFile(data if in_memory else stored(tmp_path, data)) as file:
        samples = file.read()
        assert (file.sample_rate, file.channels, file.notes, file.cut_off) == (RATE, 1, [], False)
    assert len(samples) == pytest.approx(SECONDS * RATE, abs=5)
    n = min(len(samples), len(sweep()))
    np.testing.assert_allclose(samples[:n, 0], sweep()[:n], atol=1e-4)
    assert measure(stored(tmp_path, data)).samples == len(samples)


@pytest.mark.parametrize("name", LOSSY)
def test_compressed_files_are_read_to_their_end(name: str, tmp_path: Path) -> None:
    make, seconds, delay = LOSSY[name]
    path = stored(tmp_path, make(), ".mp3" if "mp3" in name else ".ogg")
    with AudioFile(path) as file:
        samples = file.read()[:, 0]
        assert file.notes == []
    length = measure(path)
    assert length.samples == len(samples) and length.seconds == pytest.approx(seconds, abs=0.06)
    joined = "joined" in name
    expected = np.concatenate([sweep(5.0), sweep(3.0)]) if joined else sweep()
    for at in (1.0, 6.5):  # in the first and in the second of joined files
        first = round((at + delay) * RATE)
        piece, want = samples[first : first + 4000], expected[round(at * RATE) :][:4000]
        lags = np.correlate(samples[first - 200 : first + 4200], want, "valid") / np.dot(want, want)
        assert lags.max() > 0.95 and abs(int(lags.argmax()) - 200) <= (40 if delay else 8), (lags.argmax(), len(piece))


def test_a_stream_of_another_bit_rate_later_on_is_counted_not_guessed(tmp_path: Path) -> None:
    """The first frames cost many bytes, the others few: a guess from the first frame gives 12 s."""
    noise = (0.3 * np.random.default_rng(0).standard_normal(10 * RATE)).astype(np.float32)
    data = without_info(mp3(noise)) + without_info(mp3(np.zeros(60 * RATE, np.float32)))
    assert measure(stored(tmp_path, data, ".mp3")).seconds == pytest.approx(70.1, abs=0.1)


@pytest.mark.parametrize(
    ("form", "subtype"),
    [
        *(("WAV", s) for s in ("PCM_16", "PCM_24", "FLOAT", "IMA_ADPCM", "MS_ADPCM", "GSM610", "ALAW")),
        *(("AIFF", s) for s in ("PCM_16", "FLOAT", "IMA_ADPCM")),
        *((f, "PCM_16") for f in ("RF64", "W64", "AU", "CAF", "FLAC", "VOC", "NIST", "SVX")),
        *(("CAF", s) for s in ("ALAC_16", "ULAW", "ALAW", "PCM_24", "FLOAT")),
        *(("NIST", s) for s in ("ULAW", "ALAW", "PCM_24")),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
    ],
)
def test_a_file_whose_second_half_is_missing_is_read_as_far_as_it_goes_and_says_so(
    form: str, subtype: str, tmp_path: Path
) -> None:
    noise = np.random.default_rng(0).uniform(-0.1, 0.1, len(sweep()))  # fills pages of Ogg, which hold up to 64 KB
    data = encode(sweep() + noise, RATE, form, subtype)
    path = stored(tmp_path, data[: len(data) // 2], "." + form.lower())
    with AudioFile(path) as file:
        n_samples = sum(len(block) for block in file.blocks())
        assert file.cut_off and len(file.notes) == 1 and "it is cut off" in file.notes[0]
    assert 2.5 < n_samples / RATE < 4.2
    length = measure(path)
    assert length.cut_off and length.samples == n_samples
    whole = stored(tmp_path, data, "." + form.lower())
    assert not measure(whole).cut_off and measure(whole).seconds == pytest.approx(SECONDS, abs=0.1)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_without_its_last_page_says_so(subtype: str, tmp_path: Path) -> None:
    data = encode(np.tile(sweep(), 4), form="OGG", subtype=subtype)
    assert not measure(stored(tmp_path, data, ".ogg")).cut_off
    length = measure(stored(tmp_path, without_last_page(data), ".ogg"))
    assert 28 < length.seconds < 32 and length.notes == (
        f"it is cut off: its end is missing after {length.seconds:.2f} s",
    )


@pytest.mark.parametrize("name", ["wav, header not updated since the middle", "flac of unknown length", "flac", "au"])
@pytest.mark.parametrize(("start", "seconds"), [(0.0, 1.5), (3.3, 2.0), (7.5, 9.0), (20.0, 1.0)])
def test_a_part_equals_that_of_the_whole(name: str, start: float, seconds: float, tmp_path: Path) -> None:
    with AudioFile(stored(tmp_path, WHOLE[name]())) as file:
        part = file.read(start, seconds)[:, 0]
    first = round(start * RATE)
    np.testing.assert_allclose(part, sweep()[first : first + round(seconds * RATE)], atol=1e-4)


def test_a_part_of_joined_mp3s(tmp_path: Path) -> None:
    path = stored(tmp_path, mp3(sweep(5.0)) + mp3(sweep(3.0)), ".mp3")
    with AudioFile(path) as file:
        whole = file.read()
    with AudioFile(path) as file:
        np.testing.assert_array_equal(file.read(4.0, 3.0), whole[4 * RATE : 7 * RATE])


@pytest.mark.parametrize(("scale", "subtype"), [(2**15 - 1, "FLOAT"), (2**31 - 1, "FLOAT"), (2**15 - 1, "DOUBLE")])
def test_floats_far_outside_are_scaled_by_the_full_scale_of_integers(scale: int, subtype: str, tmp_path: Path) -> None:
    """Quiet at first, so that the first block does not tell."""
    wave = np.concatenate([1e-6 * sweep(), sweep()])
    path = stored(tmp_path, encode(wave.astype(float) * scale, RATE, "WAV", subtype))
    with AudioFile(path) as file:
        samples = np.concatenate(list(file.blocks()))[:, 0]
        assert len(file.notes) == 1 and "where 1 is full scale" in file.notes[0]
    np.testing.assert_allclose(samples, wave, atol=1e-4)
    assert measure(path).notes == tuple(file.notes)


def test_floats_somewhat_too_loud_are_left_as_they_are(tmp_path: Path) -> None:
    with AudioFile(stored(tmp_path, encode(6 * sweep(), RATE, "WAV", "FLOAT"))) as file:
        assert np.abs(file.read()).max() == pytest.approx(2.4, abs=0.01) and file.notes == []


@pytest.mark.parametrize(("peak", "scale"), [(1.0, 1.0), (8.0, 1.0), (13_000, 2**15), (3e6, 2**23), (2e9, 2**31)])
def test_full_scale(peak: float, scale: float) -> None:
    assert full_scale(peak) == scale


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.full(800, 1e30), "1.0e\\+30 where 1 is full scale"),
        (np.array([0.0, np.nan] * 400), "not finite"),
        (np.array([0.0, -np.inf] * 400), "not finite"),
    ],
)
def test_nonsense_is_refused(samples: np.ndarray, message: str, tmp_path: Path) -> None:
    with (
        pytest.raises(DecodeError, match=message),
        AudioFile(stored(tmp_path, encode(samples, RATE, "WAV", "FLOAT"))) as file,
    ):
        file.read()


@pytest.mark.parametrize("rate", [1, 2**31 - 1])
def test_absurd_sample_rates_are_refused(rate: int, tmp_path: Path) -> None:
    data = put(wav(), 24, struct.pack("<I", rate))
    with pytest.raises(DecodeError, match=r"sample rate is .*expected 1000 to 1000000 Hz"):
        measure(stored(tmp_path, data))


def with_rate(form: str, rate: int, subtype: str = "PCM_16") -> bytes:
    """A file of 16 kHz whose header says another rate; RIFX: a WAV with its bytes the other way round."""
    buffer = io.BytesIO()
    kind, endian = ("WAV", "BIG") if form == "RIFX" else (form, "FILE")
    soundfile.write(buffer, sweep(), 16_000, format=kind, subtype=subtype, endian=endian)
    order = ">" if form in ("RIFX", "AU") else "<"
    data, name = buffer.getvalue(), struct.pack(order + "I", 16_000)
    at = {"AU": 16, "W64": data.find(b"fmt ") + 28}.get(form, data.find(b"fmt ") + 12)
    assert data[at : at + 4] == name
    return put(data, at, struct.pack(order + "I", rate))


@pytest.mark.parametrize("rate", [0, 2**31, 2**32 - 1])
@pytest.mark.parametrize("form", ["WAV", "RIFX", "RF64", "W64", "AU"])
def test_a_rate_that_libsndfile_cannot_count_is_told_as_the_header_says_it(
    form: str, rate: int, tmp_path: Path
) -> None:
    with pytest.raises(DecodeError) as error:
        measure(stored(tmp_path, with_rate(form, rate)))
    assert str(error.value) == f"its header says {rate} Hz: expected 1000 to 1000000 Hz; its header is damaged"
    assert measure(stored(tmp_path, with_rate(form, 8000))).sample_rate == 8000


def test_a_damaged_rate_elsewhere_is_no_internal_error(tmp_path: Path) -> None:
    data = encode(sweep(), 16_000, "VOC")
    at = data.index(struct.pack("<H", 16_000))
    with pytest.raises(DecodeError, match="its header is damaged: it gives no sample rate"):
        measure(stored(tmp_path, put(data, at, bytes(2)), ".voc"))


@pytest.mark.parametrize(("data", "ending"), [(b"", ".wav"), (b"not audio" * 99, ".wav"), (b"ID3", ".mp3")])
def test_what_is_not_audio(data: bytes, ending: str, tmp_path: Path) -> None:
    with pytest.raises(DecodeError) as error:
        measure(stored(tmp_path, data, ending))
    assert "\n" not in str(error.value)


def test_formats_for_pyav_name_the_command_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_util.audio_file.pyav", lambda: None)
    with pytest.raises(DecodeError, match=r"pip install -c requirements\.txt av"):
        measure(stored(tmp_path, b"\0\0\0\x20ftypM4A " + bytes(99), ".m4a"))


def write_with_pyav(path: Path, codec: str, samples: np.ndarray, rate: int) -> None:
    """Write samples [2, n] as FFmpeg does."""
    av = pytest.importorskip("av", reason="PyAV is not installed: pip install av")
    formats = {".wma": "asf", ".m4a": "ipod", ".aac": "adts"}
    options = {"movflags": "faststart"} if path.suffix in (".m4a", ".mp4") else {}  # the table first: needed by halves
    with av.open(str(path), "w", format=formats.get(path.suffix, path.suffix[1:]), options=options) as container:
        stream = container.add_stream(codec, rate=rate, bit_rate=128_000)
        stream.layout = "stereo"
        resampler = av.AudioResampler(format=stream.codec_context.format, layout="stereo", rate=rate)
        interleaved = (samples * 32767).astype(np.int16).T.reshape(1, -1).copy()
        frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout="stereo")
        frame.sample_rate = rate
        fifo = av.AudioFifo()
        for piece in resampler.resample(frame):
            fifo.write(piece)
        for piece in fifo.read_many(stream.codec_context.frame_size or 960, partial=True):
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("ending", "codec"),
    [("m4a", "aac"), ("mp4", "aac"), ("webm", "libopus"), ("wma", "wmav2"), ("aac", "aac")],
)
def test_formats_that_pyav_reads(ending: str, codec: str, tmp_path: Path) -> None:
    rate, path = 48_000, tmp_path / f"a.{ending}"
    left = sweep(SECONDS, rate)
    write_with_pyav(path, codec, np.stack([left, 0.5 * left]), rate)
    with AudioFile(path) as file:
        found = file.read()
        assert (file.sample_rate, file.channels, file.notes) == (rate, 2, [])
    assert len(found) / rate == pytest.approx(SECONDS, abs=0.15)
    middle = left[3 * rate : 4 * rate]
    lags = np.correlate(found[3 * rate - 3000 : 4 * rate + 3000, 0], middle, "valid") / np.dot(middle, middle)
    assert lags.max() > 0.9 and abs(int(lags.argmax()) - 3000) < 2400  # raw AAC has no note of its delay
    assert np.abs(found[rate:-rate, 1]).max() == pytest.approx(0.2, abs=0.03)
    assert measure(path).samples == len(found)
    with AudioFile(path) as file:
        np.testing.assert_allclose(file.read(2.0, 1.5), found[2 * rate : round(3.5 * rate)], atol=1e-6)


@pytest.mark.parametrize(("ending", "codec"), [("m4a", "aac"), ("mp4", "aac"), ("webm", "libopus"), ("wma", "wmav2")])
def test_half_a_file_for_pyav_says_so(ending: str, codec: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{ending}"
    write_with_pyav(path, codec, np.stack([sweep(SECONDS, 48_000)] * 2), 48_000)
    data = path.read_bytes()
    assert not measure(path).cut_off
    length = measure(stored(tmp_path, data[: len(data) // 2], f".{ending}"))
    assert 3.5 < length.seconds < 4.5 and length.cut_off and "it is cut off: it announces" in length.notes[0]


def test_a_webm_that_was_recorded_live_announces_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.webm"
    write_with_pyav(path, "libopus", np.stack([sweep(SECONDS, 48_000)] * 2), 48_000)
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88")  # the length, 11 bytes with its header, becomes a hole of the same size
    live = stored(tmp_path, data[:at] + b"\xec\x89" + bytes(9) + data[at + 11 :], ".webm")
    assert measure(live).notes == () and measure(live).seconds == pytest.approx(SECONDS, abs=0.05)


def test_a_file_without_audio_for_pyav(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="PyAV is not installed: pip install av")
    with pytest.raises(DecodeError):
        measure(stored(tmp_path, b"\0\0\0\x20ftypM4A " + bytes(99), ".m4a"))
