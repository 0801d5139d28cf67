"""What ends a run before its end."""


class BulkError(Exception):
    """The run cannot begin or go on; the message is one line that names the cause and what to do."""
