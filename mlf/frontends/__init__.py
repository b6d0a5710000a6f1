"""Where models come from: each module here reads one kind of source."""
