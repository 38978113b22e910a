"""Findings as page, tables, charts and card."""
