"""Makes what a node said fit to be printed: a node must not control the terminal of who reads its log."""

import codecs

_ESC, _BEL, _C1 = "\x1b", "\x07", range(0x80, 0xA0)
_INTRODUCERS = "[]PX^_"  # after ESC: control sequences, and strings of several kinds (ECMA-48, 5.6 and 8.3)
_STRING_MOST = 4096  # characters; a string that is never ended must not swallow the rest of the log


class Harmless:
    """Takes bytes as they come and gives text: lines, tabs and what can be printed; everything else is left out."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._inside = ""
        """What began a sequence that has not ended: nothing, ESC, `[`, `]` for any string, or one more byte."""
        self._length = 0
        self._return = False

    def __call__(self, data: bytes, *, final: bool = False) -> str:
        """Return the printable part of what came; `final` if nothing comes after it."""
        return "".join(self._shown(character) for character in self._decoder.decode(data, final))

    def _shown(self, character: str) -> str:
        if self._inside:
            return self._in_sequence(character)
        if character == "\r":
            self._return = True
            return ""
        # A return alone goes back to the line's beginning, as progress bars do: here that is a new line.
        begin = "\n" if self._return and character != "\n" else ""
        self._return = False
        return begin + self._plain(character)

    def _plain(self, character: str) -> str:
        if character in "\n\t":
            return character
        if character == _ESC:
            self._enter(_ESC)
        elif ord(character) in _C1:
            self._enter(
                {0x9B: "[", 0x90: "]", 0x98: "]", 0x9D: "]", 0x9E: "]", 0x9F: "]"}.get(ord(character), "")
            )
        elif character.isprintable():
            return character
        return ""

    def _enter(self, kind: str) -> None:
        self._inside, self._length = kind, 0

    def _in_sequence(self, character: str) -> str:
        """Go on inside a sequence; nothing of it is shown."""
        self._length += 1
        kind = self._inside
        if character in "\n\x18\x1a":  # line ends, and what cancels a sequence
            self._inside = ""
            return "\n" if character == "\n" else ""
        if character == _ESC:
            self._enter(_ESC)
        elif kind == _ESC:
            if character in _INTRODUCERS:
                self._enter("[" if character == "[" else "]")
            elif not " " <= character <= "/":  # intermediate bytes, as in ESC ( B
                self._inside = ""
        elif kind == "[":
            if "@" <= character <= "~":
                self._inside = ""
        elif character in (_BEL, "\x9c") or self._length > _STRING_MOST:
            self._inside = ""
        return ""
