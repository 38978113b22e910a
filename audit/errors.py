"""What a person asked of an audit that cannot be done."""


class AuditError(ValueError):
    """Names the value, where it came from and what is accepted."""
