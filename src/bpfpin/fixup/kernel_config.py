"""A kernel's configuration as text, and its values as the bytes of an object's variables.

The forms are those of Kconfig's `.config` and the rules libbpf's: `y`, `n` and `m` fill a bool, an
`enum libbpf_tristate` or a char, a number an integer that has room for it, a text in quotes an
array of char.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from bpfpin.errors import ObjectFileError
from bpfpin.externs import KCONFIG, ConfigForm, ExternSpec

_LINE = re.compile(rb"^(CONFIG_\w+)=(.*)$", re.MULTILINE | re.ASCII)
_NUMBER = re.compile(r"([+-]?)(0[xX][0-9a-fA-F]{1,64}|0[0-7]{0,64}|[1-9][0-9]{0,64})", re.ASCII)
_TRISTATE = {"n": 0, "y": 1, "m": 2}


def values_in(text: bytes, wanted: Collection[str] | None = None) -> dict[str, str]:
    """Return what the configuration *text* says of the *wanted* names, or of all of them.

    Where it names one twice, the last word counts.
    """
    return {
        name: value.decode(errors="replace").strip()
        for name, value in ((found[1].decode(), found[2]) for found in _LINE.finditer(text))
        if wanted is None or name in wanted
    }


def encoded(extern: ExternSpec, text: str) -> bytes:
    """Return the bytes that *text* gives the variable; a longer text is cut, its NUL kept.

    `ObjectFileError` if it does not fit the variable's type.
    """
    form = extern.config_form
    if text in _TRISTATE:
        number = _of_tristate(form, text)
    elif text[:1] == '"':
        if form is ConfigForm.TEXT and len(text) > 1 and text[-1] == '"':
            return text[1:-1].encode()[: extern.size - 1].ljust(extern.size, b"\0")
        number = None
    else:
        number = _of_number(extern, form, text)
    if number is None:
        raise ObjectFileError(
            f"{extern.name} is {text} in this kernel, which does not fit {extern.c_source}",
            section=KCONFIG,
            symbol=extern.name,
        )
    return number.to_bytes(extern.size, "little")


def _of_tristate(form: ConfigForm | None, text: str) -> int | None:
    if form is ConfigForm.CHAR:
        return ord(text)
    if form is ConfigForm.TRISTATE or (form is ConfigForm.BOOL and text != "m"):
        return _TRISTATE[text]
    return None


def _of_number(extern: ExternSpec, form: ConfigForm | None, text: str) -> int | None:
    """Return the number as the unsigned one of the same bits; None if the variable is too small."""
    found = _NUMBER.fullmatch(text)
    if found is None or form not in (ConfigForm.NUMBER, ConfigForm.CHAR, ConfigForm.BOOL):
        return None
    digits = found[2]
    is_octal = len(digits) > 1 and digits[1] not in "xX" and digits[0] == "0"
    number = int(digits, 8 if is_octal else 0) * (-1 if found[1] == "-" else 1)
    bits = 1 if form is ConfigForm.BOOL else 8 * extern.size
    # Of eight bytes the kernel writes addresses, which a signed variable may hold as well.
    is_signed = extern.is_signed and bits < 64
    low = -(1 << (bits - 1)) if is_signed or bits == 64 else 0
    high = 1 << (bits - 1 if is_signed else bits)
    return number % (1 << 8 * extern.size) if low <= number < high else None
