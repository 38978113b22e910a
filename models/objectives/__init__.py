"""The terms of a private network's loss."""
