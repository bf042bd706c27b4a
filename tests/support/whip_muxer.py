"""Publishes the test chart by WHIP with FFmpeg's muxer, as `ffmpeg -f whip` does, until its standard input is closed.

A program, `python -m tests.support.whip_muxer URL DIRECTORY [--profile NAME] [--sound]`, as FFmpeg blocks while it
connects. DIRECTORY gets the certificate of the connection. Prints `publishing` once that is up.
"""

from __future__ import annotations

import argparse
import datetime as dt
import select
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from streamgen.colours import ToYuv
from tests.support.chart import chart
from tests.support.webrtc import TONE_HZ

FPS = 20
RATE = 48000
PIECE = RATE // 50
X264 = {"preset": "veryfast", "tune": "zerolatency", "crf": "18"}
CLOCK = Fraction(1, 90000)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--sound", action="store_true")
    parser.add_argument("--profile", default="baseline")
    args = parser.parse_args()
    with av.open(args.url, "w", format="whip", options=certificate(args.directory)) as output:
        publish(output, args.profile, sound=args.sound)


def certificate(directory: Path) -> dict[str, str]:
    """The muxer's options for a self-signed certificate on P-256. OpenSSL refuses what its GnuTLS makes by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "muxer")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    files = {"cert_file": directory / "certificate.pem", "key_file": directory / "key.pem"}
    files["cert_file"].write_bytes(made.public_bytes(pem))
    files["key_file"].write_bytes(key.private_bytes(pem, *plain))
    return {option: str(path) for option, path in files.items()}


def publish(output: av.container.OutputContainer, profile: str, *, sound: bool) -> None:
    """The chart, and a tone where `sound` is asked for, at their own pace."""
    picture = ToYuv()(av.VideoFrame.from_ndarray(chart(), format="rgb24"))
    video = output.add_stream("libx264", rate=FPS, options=X264 | {"profile": profile})
    assert isinstance(video, av.VideoStream)
    video.width, video.height, video.pix_fmt = picture.width, picture.height, "yuv420p"
    video.gop_size, video.max_b_frames, video.time_base = FPS, 0, CLOCK
    audio = output.add_stream("libopus", rate=RATE, layout="stereo") if sound else None
    output.start_encoding()
    print("publishing", flush=True)
    began, pictures, pieces = time.monotonic(), 0, 0
    while not select.select([sys.stdin], [], [], 0.005)[0]:
        elapsed = time.monotonic() - began
        if pictures / FPS <= elapsed:
            picture.pts, picture.time_base = round(pictures / FPS / CLOCK), CLOCK
            pictures += 1
            output.mux(video.encode(picture))
        if isinstance(audio, av.AudioStream) and pieces * PIECE / RATE <= elapsed:
            output.mux(audio.encode(tone(pieces)))
            pieces += 1


def tone(number: int) -> av.AudioFrame:
    """A piece of 20 ms."""
    times = (np.arange(PIECE) + number * PIECE) / RATE
    wave = (8000 * np.sin(2 * np.pi * TONE_HZ * times)).astype(np.int16)
    piece = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None], format="s16", layout="stereo")
    piece.sample_rate, piece.pts, piece.time_base = RATE, number * PIECE, Fraction(1, RATE)
    return piece


if __name__ == "__main__":
    main()
