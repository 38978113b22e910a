"""Audits of networks and features that are not ours."""
