"""The bound on what any adversary whatever can read, and its rows for a network."""
