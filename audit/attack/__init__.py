"""Attackers, what they look at, how they are judged, and what an audit finds."""
