"""The stops of docs/lecture.md: what is computed at each, its picture, and the numbers that the page quotes."""
