"""A long pipeline: sixty generations of Conway's Game of Life, one node each.

What to look at:

* Sixty nodes in a row show what a step costs: open the run and look at the gaps between one node's end and the next
  one's start, or at `agentflow run dags/life_pipeline.py --json`.
* The board travels from node to node as a list of strings. Outputs are JSON and meant for small things; anything
  large belongs in a file store, with its address as the output.
* A variable that is assigned again and again in the body is the result of the newest call, so the loop makes a chain.
"""

from __future__ import annotations

from itertools import product

from agentflow import node, workflow

GENERATIONS = 60
SIZE = 24
NEIGHBOURS = [step for step in product((-1, 0, 1), repeat=2) if step != (0, 0)]


@node
def first() -> list[str]:
    """The R-pentomino, five cells that take 1,103 generations to settle on an endless board."""
    middle = SIZE // 2
    alive = {
        (middle - 1, middle),
        (middle - 1, middle + 1),
        (middle, middle - 1),
        (middle, middle),
        (middle + 1, middle),
    }
    return ["".join("#" if (y, x) in alive else "." for x in range(SIZE)) for y in range(SIZE)]


@node
def generation(board: list[str]) -> list[str]:
    """The next board; its edges are joined."""

    def lives(y: int, x: int) -> bool:
        around = sum(board[(y + dy) % SIZE][(x + dx) % SIZE] == "#" for dy, dx in NEIGHBOURS)
        return around == 3 or (around == 2 and board[y][x] == "#")

    return ["".join("#" if lives(y, x) else "." for x in range(SIZE)) for y in range(SIZE)]


@node
def show(board: list[str]) -> dict[str, int]:
    """Print the board and count its cells."""
    print("\n".join(board))
    return {"generations": GENERATIONS, "alive": sum(row.count("#") for row in board)}


@workflow(name="life-pipeline", title="Game of Life in sixty steps", tags=["example", "pipeline"])
def life_pipeline() -> None:
    """Sixty small steps, one after the other."""
    board = first()
    for number in range(1, GENERATIONS + 1):
        board = generation.named(f"generation_{number:02}")(board)
    show(board)
