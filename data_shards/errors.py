"""The one error of this room: input that a person has to mend."""


class DataError(ValueError):
    """A data set, label or shard is not what it should be; the message names file, value and what is accepted."""
