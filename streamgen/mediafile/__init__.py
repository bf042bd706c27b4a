"""Video files: read as upright RGB pictures with their timestamps, written with the sound passed along."""

from streamgen.mediafile.reader import STRANGERS, Picture, VideoReader
from streamgen.mediafile.writer import VideoWriter, check_writable, unfinished

__all__ = ["STRANGERS", "Picture", "VideoReader", "VideoWriter", "check_writable", "unfinished"]
