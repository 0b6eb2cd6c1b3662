"""Recordings: video, faces, audio and biosignals, read and cut by small functions that know nothing of Ray."""
