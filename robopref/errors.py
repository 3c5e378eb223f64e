"""The one exception type for mistakes that a user can put right."""


class RoboprefError(ValueError):
    """Bad input, with a message that says what was wrong, where, and what to do.

    The command line prints it as one line without a traceback; library users catch it like a ``ValueError``.
    """
