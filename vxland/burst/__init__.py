"""One wake-up of each direction: read, decide, move on; and what is noted of it on the way."""
