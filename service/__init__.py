"""The running server: keeps each session's recurrent state and advances it one step, or one chunk, at a time."""
