"""An API server with faults that a real one has seldom, and never when a test needs them."""
