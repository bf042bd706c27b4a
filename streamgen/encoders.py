"""Video encoders for live pictures, in place of aiortc's own: cheap, even in size, and not rebuilt at every whim.

aiortc 1.16 runs x264 at preset medium on all cores without a buffer limit, so that a key frame is as large as it likes;
it denoises VP8 (noise-sensitivity 4), which takes a third of its time and can leave wrong macroblocks behind; it tells
both that there are 30 frames a second; and it makes a new encoder, with a key frame, for every change of the receiver's
estimate above 10 %. It describes no colours in H264. These take its packing of frames, and nothing else, from it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction

import av
from aiortc import RTCRtpSender, RTCRtpTransceiver
from aiortc.codecs.base import Encoder
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.mediastreams import VIDEO_TIME_BASE, convert_timebase
from av.frame import Frame
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorRange

from streamgen.colours import BT601, OUT_PRIMARIES, OUT_TRANSFER, ToYuv

START_BITRATE, LEAST_BITRATE, MOST_BITRATE = 2_000_000, 300_000, 20_000_000
"""Bits a second: before the receiver has said anything, and whatever it says."""
TOLERANCE = 0.25
"""By how much bitrate or frame rate may be off before an encoder is made anew."""
PATIENCE_S = 3.0
"""How long an encoder lives at least, unless the size changes."""
BUFFERED_FRAMES = 3
"""How many frames' share of the bitrate one frame, a key frame above all, may take."""
LARGE = 640 * 480
"""Pixels from which on two threads encode."""

_ENCODER = "_RTCRtpSender__encoder"


class Tuned:
    """An encoder that knows for which bitrate and frame rate it was made, and when it is to be made anew.

    Goes before aiortc's encoder among the bases. aiortc assigns `target_bitrate` when the receiver sends an estimate
    (REMB).
    """

    def __init__(self, fps: Callable[[], float], most: Callable[[], int] = lambda: MOST_BITRATE) -> None:
        """fps: frames a second; most: bits a second, whatever the receiver says; both as of now."""
        super().__init__()
        self._fps = fps
        self._most = most
        self._target = START_BITRATE
        self.made_key_frame = False
        """Whether the last picture became a key frame."""
        self._made: tuple[int, int, int, float, float] | None = None
        self._to_yuv = ToYuv()

    @property
    def target_bitrate(self) -> int:
        """Bits a second."""
        return max(LEAST_BITRATE, min(self._target, self._most()))

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        self._target = bitrate

    @property
    def _rate(self) -> float:
        return max(self._fps(), 1.0)

    def outdated(self, frame: av.VideoFrame) -> bool:
        """Whether a new encoder is wanted for this frame; if so, it is taken to be made."""
        now, fps = _seconds(frame), self._rate
        if self._made is not None:
            width, height, bitrate, made_for, at = self._made
            same_size = (frame.width, frame.height) == (width, height)
            close = _close(self.target_bitrate, bitrate) and _close(fps, made_for)
            if same_size and (close or 0 <= now - at < PATIENCE_S):
                return False
        self._made = (frame.width, frame.height, self.target_bitrate, fps, now)
        return True

    def threads(self, frame: av.VideoFrame) -> int:
        """That encode a frame of this size."""
        return 1 if frame.width * frame.height <= LARGE else 2

    def compressed(self, codec: VideoCodecContext, frame: av.VideoFrame, force_keyframe: bool) -> bytes:
        """The frame as `codec` encodes it; nothing where it wants to see more first."""
        kinds = av.video.frame.PictureType
        frame.pict_type = kinds.I if force_keyframe else kinds.NONE
        packets = codec.encode(frame)
        self.made_key_frame = any(packet.is_keyframe for packet in packets)
        return b"".join(bytes(packet) for packet in packets)

    def configured(self, codec: VideoCodecContext, frame: av.VideoFrame, options: dict[str, str]) -> VideoCodecContext:
        """`codec`, set up for frames like this one."""
        fps = Fraction(self._rate).limit_denominator(1001)
        codec.width, codec.height, codec.pix_fmt = frame.width, frame.height, "yuv420p"
        codec.bit_rate = self.target_bitrate
        codec.framerate, codec.time_base = fps, VIDEO_TIME_BASE
        codec.thread_count = self.threads(frame)
        buffered = str(int(BUFFERED_FRAMES * self.target_bitrate / fps))
        codec.options = {"maxrate": str(self.target_bitrate), "bufsize": buffered, **options}
        return codec


class LiveH264Encoder(Tuned, H264Encoder):
    """H264, baseline, by x264's fastest preset: at these bitrates it looks the same at a tenth of the cost."""

    def _encode_frame(self, frame: av.VideoFrame, force_keyframe: bool) -> Iterator[bytes]:
        frame = self._to_yuv(frame)
        if self.outdated(frame) or self.codec is None:
            codec = av.CodecContext.create("libx264", "w")
            options = {"level": "31", "preset": "ultrafast", "tune": "zerolatency"}
            self.codec = self.configured(codec, frame, options)
            self.codec.profile = "Baseline"
            self.codec.colorspace, self.codec.color_range = BT601, ColorRange.MPEG
            self.codec.color_primaries, self.codec.color_trc = OUT_PRIMARIES, OUT_TRANSFER
        data = self.compressed(self.codec, frame, force_keyframe)
        if data:
            yield from self._split_bitstream(data)


class LiveVp8Encoder(Tuned, Vp8Encoder):
    """VP8 at a constant bitrate, without denoising, key frames held to what the buffer takes."""

    def threads(self, frame: av.VideoFrame) -> int:
        """One: several of libvpx's spin while they wait, and take 100 ms instead of 3 where others want a core."""
        return 1

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Payloads of RTP packets, and the RTP timestamp."""
        assert isinstance(frame, av.VideoFrame)
        frame = self._to_yuv(frame)
        if self.outdated(frame) or self.codec is None:
            self.codec = self._created(frame)
        data = self.compressed(self.codec, frame, force_keyframe)
        payloads = self._packetize(data, self.picture_id)
        self.picture_id = (self.picture_id + 1) % (1 << 15)
        assert frame.pts is not None
        assert frame.time_base is not None
        return payloads, convert_timebase(frame.pts, frame.time_base, VIDEO_TIME_BASE)

    def _created(self, frame: av.VideoFrame) -> VideoCodecContext:
        options = {
            "cpu-used": "-8",
            "deadline": "realtime",
            "lag-in-frames": "0",
            "max-intra-rate": str(100 * BUFFERED_FRAMES),
            "minrate": str(self.target_bitrate),  # as maxrate: a constant bitrate
            "noise-sensitivity": "0",
            "overshoot-pct": "15",
            "partitions": "0",
            "static-thresh": "1",
            "undershoot-pct": "100",
            "bufsize": str(self.target_bitrate // 2),  # half a second; max-intra-rate is what holds a key frame
        }
        codec = self.configured(av.CodecContext.create("libvpx", "w"), frame, options)
        codec.gop_size, codec.qmin, codec.qmax = 3000, 16, 56  # a finer quantizer shows nothing more, and costs packets
        return codec


LiveEncoder = LiveH264Encoder | LiveVp8Encoder

_ENCODERS: dict[str, type[LiveH264Encoder | LiveVp8Encoder]] = {
    "video/h264": LiveH264Encoder,
    "video/vp8": LiveVp8Encoder,
}


def live_encoder(
    codec: str, fps: Callable[[], float], most: Callable[[], int] = lambda: MOST_BITRATE
) -> LiveEncoder | None:
    """An encoder for a codec by its MIME type; None where there is none.

    fps: frames a second; most: bits a second; both as of now.
    """
    make = _ENCODERS.get(codec.lower())
    return None if make is None else make(fps, most)


def codec_of(transceiver: RTCRtpTransceiver) -> str:
    """MIME type of what was negotiated to be sent; empty before that, or where this aiortc keeps it elsewhere."""
    codecs = getattr(transceiver, "_codecs", None)
    return str(codecs[0].mimeType) if codecs else ""


def encode_with(sender: RTCRtpSender, encoder: Encoder) -> bool:
    """Gives a sender that has not begun an encoder. False where this aiortc keeps its encoder elsewhere."""
    if not hasattr(sender, _ENCODER):
        return False
    setattr(sender, _ENCODER, encoder)
    return True


def encode_live(transceiver: RTCRtpTransceiver, fps: Callable[[], float]) -> bool:
    """Gives a negotiated transceiver's sender such an encoder, before it sends. fps: frames a second, as of now.

    False where aiortc keeps its encoder elsewhere, or another codec was agreed on: then its own encodes.
    """
    encoder = live_encoder(codec_of(transceiver), fps)
    return encoder is not None and encode_with(transceiver.sender, encoder)


def _seconds(frame: av.VideoFrame) -> float:
    return float(frame.pts * frame.time_base) if frame.pts is not None and frame.time_base else 0.0


def _close(value: float, other: float) -> bool:
    return abs(value - other) <= TOLERANCE * other
