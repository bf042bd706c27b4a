"""Chromium, where there is one, with a fake camera."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np

from streamgen.colours import ToYuv
from streamgen.core import Pixels

if TYPE_CHECKING:
    from playwright.async_api import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--no-sandbox", "--autoplay-policy=no-user-gesture-required", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run"),
]
CAMERA = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]


def camera_file(picture: Pixels, path: Path) -> Path:
    """Writes a .y4m file for the fake camera, which sees `picture`, as BT.601 in limited range."""
    height, width = picture.shape[:2]
    header = f"YUV4MPEG2 W{width} H{height} F16:1 Ip A1:1 C420jpeg\n".encode()
    frame = b"FRAME\n" + ToYuv()(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture))).to_ndarray().tobytes()
    path.write_bytes(header + frame * 16)
    return path


@asynccontextmanager
async def chromium(camera: Path) -> AsyncIterator[Browser]:
    """A browser whose camera shows the file."""
    from playwright.async_api import async_playwright  # noqa: PLC0415 - only where there is a Chromium for it

    async with async_playwright() as playwright:
        flags = [*FLAGS, *CAMERA, f"--use-file-for-fake-video-capture={camera}"]
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield browser
        await browser.close()
