"""The one exception that means "your input, not our code"."""


class SenetError(ValueError):
    """Bad input, said in one sentence that names the argument, file or key and the remedy.

    The command line prints the sentence and exits with status 2; every other exception is a defect.
    """
