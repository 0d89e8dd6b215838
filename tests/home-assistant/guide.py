"""Reads the guide, so that the test does exactly what a reader does."""

import re

from world import ROOT

SHIPPED = ROOT / "deploy/home-assistant"
GUIDE = (SHIPPED / "README.md").read_text()


def block(first_line):
    """The fenced block of the guide that starts with this line."""
    for text in re.findall(r"^```\w*\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL):
        if text.startswith(first_line + "\n"):
            return text
    raise AssertionError(f"the guide has no block that starts with {first_line!r}")


def codes(markdown, heading):
    """The codes in the first table after this heading."""
    section = markdown.split(f"\n{heading}\n", 1)[1]
    section = re.split(r"^#+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    return set(re.findall(r"^\|(?: \d+ \|)? `(\w+)` \|", section, re.MULTILINE)) - {"code"}
