"""What the numbers of a picture mean: by which matrix luma and chroma were made of red, green and blue, in which range.

In: what the bitstream says holds. What it leaves open is taken for BT.601 in limited range, whatever the size: VP8 is
that by definition (RFC 6386, section 9.2), and Chromium (measured with 156, at 640x480 and 1280x720) sends its camera
without a description, in H264 too, and shows it so to its own user.

Out: all that we encode is BT.601 in limited range, and H264 says so. Chromium takes H264 that says nothing for BT.709,
at every size, which is 39 levels of 255 off in saturated colours; VP8 it takes for BT.601. Players that read no
description take pictures of our sizes for BT.601. One matrix for both codecs also means one conversion.

Primaries and transfer are not converted, whatever is said of them. Those of BT.601 and BT.709 are so close that
Chromium does not convert them either; from a wide gamut (Display P3, BT.2020) colours come out a little paler.
"""

from __future__ import annotations

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation, VideoReformatter

from streamgen.core import Pixels

# Matrices as ITU-T H.273 numbers them; bitstreams and frames carry these numbers, swscale's own (Colorspace) differ.
RGB, BT709, UNSPECIFIED, FCC, BT470BG, BT601, SMPTE240M, BT2020 = 0, 1, 2, 4, 5, 6, 7, 9

_MEANT = {BT709: BT709, FCC: FCC, BT470BG: BT601, BT601: BT601, SMPTE240M: SMPTE240M, BT2020: BT2020}
"""Matrices that can be converted. BT.470BG is BT.601 for 625 lines: the same numbers."""

_EXACT = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""Right to 1 level in most colours. Libav's fast way to RGB is up to 4 off, in an eighth of the time."""

OUT_PRIMARIES, OUT_TRANSFER = ColorPrimaries.BT709, ColorTrc.BT709
"""What is written beside BT601 and ColorRange.MPEG: models make pictures for screens."""


def settle(picture: VideoFrame) -> None:
    """Writes into `picture` what its numbers are taken for: a matrix and a range that are known, and nothing else.

    A bitstream may hold any number there, also ones that no standard knows and that the converters refuse.
    """
    name = picture.format.name
    if picture.format.is_rgb:
        matrix, full = RGB, True
    else:
        matrix = _MEANT.get(picture.colorspace, BT601)
        full = picture.color_range == ColorRange.JPEG or name.startswith("yuvj")
    picture.colorspace = matrix
    picture.color_range = ColorRange.JPEG if full else ColorRange.MPEG
    picture.color_primaries = ColorPrimaries.UNSPECIFIED
    picture.color_trc = ColorTrc.UNSPECIFIED


class ToYuv:
    """Pictures of any format as the encoders take them: 4:2:0, BT.601, limited range. Not for two threads at once.

    Kept, as making the converters takes five times as long as converting one picture. On one thread: others that libav
    would start are not worth their while at these sizes, and stay until the garbage collector comes by.
    """

    def __init__(self) -> None:
        self._to_rgb = VideoReformatter()
        self._to_yuv = VideoReformatter()

    def __call__(self, picture: VideoFrame) -> VideoFrame:
        """`picture` itself where it is that already (then it says so from now on), else one of the same time."""
        settle(picture)
        if (picture.colorspace, picture.color_range) not in ((RGB, ColorRange.JPEG), (BT601, ColorRange.MPEG)):
            # By way of RGB, as libav does it from one matrix to another too, but that is up to 5 levels off.
            picture = self._to_rgb.reformat(
                picture, format="rgb24", dst_color_range=ColorRange.JPEG, interpolation=_EXACT, threads=1
            )
            settle(picture)
        return self._to_yuv.reformat(
            picture, format="yuv420p", dst_colorspace=Colorspace.ITU601, dst_color_range=ColorRange.MPEG, threads=1
        )


class ToRgb:
    """Pixels of pictures of any format. Kept, for the same reason. Not for two threads at once."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def __call__(self, picture: VideoFrame) -> Pixels:
        """(H, W, 3) RGB. Raises av.FFmpegError for a picture that cannot be converted."""
        settle(picture)
        rgb = self._reformatter.reformat(picture, format="rgb24", dst_color_range=ColorRange.JPEG, threads=1)
        return np.asarray(rgb.to_ndarray(), dtype=np.uint8)
