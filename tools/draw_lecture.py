"""Make docs/lecture.md and its pictures: draw_lecture.py [--only STOP ...] [--fresh].

The text is tools/lecture/page.md; `{{stop.name}}` in it is a number that the stop's code gave. What takes time is kept
in build/lecture, so that a picture can be drawn again in a second; --fresh computes it anew.
"""

from __future__ import annotations

import argparse
import re
import time

from lecture import autoencoders, classical, counts, questions
from lecture.frame import ROOT, Stop, keep_numbers, kept_numbers

PAGE, TEXT = ROOT / "docs" / "lecture.md", ROOT / "tools" / "lecture" / "page.md"
STOPS: dict[str, Stop] = classical.STOPS | autoencoders.STOPS | counts.STOPS | questions.STOPS


def filled(text: str, numbers: dict[str, dict[str, str]]) -> str:
    """Return the text with its numbers.

    Parameters
    ----------
    text
        The page with `{{stop.name}}` where a number goes.
    numbers
        By stop and name.

    Raises
    ------
    KeyError
        If a number is not there.
    """

    def number(match: re.Match[str]) -> str:
        return numbers[match[1]][match[2]]

    return re.sub(r"\{\{(\w+)\.(\w+)\}\}", number, text)


def main() -> int:
    """Compute what is missing, draw, write the page; 1 where it lacks the numbers of a stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(STOPS), default=list(STOPS), help="stops to draw")
    parser.add_argument("--fresh", action="store_true", help="compute again")
    asked = parser.parse_args()
    for name in asked.only:
        start = time.perf_counter()
        found = STOPS[name].found(name, fresh=asked.fresh)
        computed = time.perf_counter()
        keep_numbers(name, STOPS[name].draw(found))
        print(f"{name:14} {computed - start:6.1f} s computed {time.perf_counter() - computed:5.1f} s drawn", flush=True)
    try:
        page = filled(TEXT.read_text(encoding="utf-8"), kept_numbers())
    except KeyError as missing:
        print(f"The page is as it was: it lacks {missing}, draw that stop.")
        return 1
    PAGE.write_text(page, encoding="utf-8")
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
