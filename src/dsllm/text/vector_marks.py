"""Marks among 64 bytes of UTF-8, as `vector.py` has its instructions: see `vector_marks_llvm.py`.

A mask has the lowest bit for the first byte. A character of several bytes has the bit of its first one; it is
known even where it goes on behind the block, so up to 66 bytes are read.
"""

from dsllm.text.compiled import instruction


@instruction
def ascii_mark_masks(array, index):
    """Classify the 64 bytes from `array[index]` on, a mask a class.

    The classes: not ASCII; stops, commas, colons, semicolons, question and exclamation marks; of these stops
    and those two marks; stops; hash signs; opening curly brackets.
    """


@instruction
def wide_mark_masks(array, index):
    """Classify the characters beyond ASCII that begin in the 64 bytes from `array[index]` on, a mask a class.

    The classes: bytes that follow a lead; marks, the Chinese ones for those of `ascii_mark_masks`, the
    ideographic comma and the ellipsis; of these stops, question and exclamation marks; ideographic stops;
    ellipses; hash signs.
    """


@instruction
def other_mark_mask(array, index):
    """Say where one of the usual characters begins that are no letters: most of those beside letters.

    U+2000 to U+203F, U+3000 to U+3004, U+3008 to U+3020, U+FF01 to U+FF20.
    """
