"""Texts that people type, in one of the forms that Unicode has for them."""

import unicodedata


def one_form(text: str) -> str:
    r"""Return a text whose every ä is one sign: macOS writes an a and two dots into file names.

    >>> one_form("La\u0308sion") == "L\u00e4sion"
    True
    """
    return unicodedata.normalize("NFC", text)
