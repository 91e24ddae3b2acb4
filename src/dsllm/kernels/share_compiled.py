"""What part of the work is a thread's own."""

from dsllm.text.compiled import compiled


@compiled
def part_of(share, n):
    """Give a thread's part of `n` things: its first, and the one behind its last.

    share: the thread's number, and how many there are.
    """
    return n * share[0] // share[1], n * (share[0] + 1) // share[1]
