"""What an image decoder only warns of is refused: a cut-off table or a broken tag may have changed the pixels."""

import warnings


def refuse_what_decoders_warn_of() -> None:
    """Turn every warning of Pillow into an exception, for the whole process and for good.

    Not around each decode: `warnings.catch_warnings` changes a list that all threads share.
    """
    warnings.filterwarnings("error", module=r"PIL\.")
