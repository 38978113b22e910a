"""A trained network as files for other runtimes, and what they cost."""
