import gzip
import io
import subprocess

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from dsllm.errors import ShardError
from dsllm.io.compression import codec_of_head, codec_of_name, compress, decompress, frame_of


def read_all(data: bytes, codec: str) -> bytes:
    return b"".join(block for block, _ in decompress(io.BytesIO(data), codec, "file"))


@given(parts=st.lists(st.binary(max_size=300), max_size=5), codec=st.sampled_from(["plain", "gz", "zst"]))
def test_any_number_of_frames_reads_back(parts, codec):
    packed = b"".join(compress(part, codec) for part in parts)
    assert read_all(packed, codec) == b"".join(parts)


def test_other_programs_read_our_frames_and_we_read_theirs(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(compress(b"one\n", "gz") + compress(b"two\n", "gz"))
    assert gzip.decompress(path.read_bytes()) == b"one\ntwo\n"
    packed = subprocess.run(["gzip", "-c"], input=b"three\n", capture_output=True, check=True).stdout
    assert read_all(packed, "gz") == b"three\n"


@pytest.mark.parametrize("codec", ["gz", "zst"])
def test_a_cut_file_is_an_error_wherever_it_is_cut(codec):
    packed = compress(b"some text\n" * 50, codec)
    whole = packed + packed
    for end in range(1, len(whole)):
        if end == len(packed):
            continue
        with pytest.raises(ShardError, match="cut after|damaged"):
            read_all(whole[:end], codec)


@pytest.mark.parametrize("codec", ["gz", "zst"])
def test_a_flipped_byte_is_an_error(codec):
    packed = bytearray(compress(bytes(range(256)) * 4, codec))
    packed[len(packed) // 2] ^= 0xFF
    with pytest.raises(ShardError):
        read_all(bytes(packed), codec)


@pytest.mark.parametrize("window_log", [10, 27, 28, 31])
def test_frames_of_any_window_are_read(window_log):
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, compression_level=1)
    packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = packer.compress(b"a line\n") + packer.flush()  # its size is not known, so the window is stated
    assert zstandard.get_frame_parameters(packed).window_size == 1 << window_log
    assert read_all(packed, "zst") == b"a line\n"


@pytest.mark.parametrize(("codec", "unpack"), [("gz", gzip.decompress), ("zst", zstandard.decompress)])
def test_a_frame_of_nothing_is_one(codec, unpack):
    assert unpack(frame_of(b"", codec)) == b""
    assert read_all(frame_of(b"", codec) + compress(b"x", codec), codec) == b"x"


def test_gzip_may_be_padded_with_zeros_but_not_be_zeros():
    assert read_all(compress(b"x", "gz") + bytes(600), "gz") == b"x"
    with pytest.raises(ShardError, match="damaged gz data"):
        read_all(bytes(600), "gz")


def test_the_codec_is_told_by_suffix_or_by_the_first_bytes():
    assert [codec_of_name(name) for name in ("a.jsonl", "a.gz", "a.jsonl.zst")] == ["plain", "gz", "zst"]
    assert codec_of_head(compress(b"x", "zst")) == "zst"
    assert codec_of_head(compress(b"x", "gz")) == "gz"
    assert codec_of_head(b'{"text": 1}') == "plain"
