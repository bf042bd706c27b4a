"""Video files: read as upright RGB pictures with their timestamps, written with the sound passed along."""

from streamgen.mediafile.reader import Picture, VideoReader
from streamgen.mediafile.writer import VideoWriter, check_writable

__all__ = ["Picture", "VideoReader", "VideoWriter", "check_writable"]
