"""WebRTC: offers, peer connections, the way of frames in and out."""
