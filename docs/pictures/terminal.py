#!/usr/bin/env python3
"""Draws what a terminal showed as an SVG: `terminal.py TITLE < session.txt > picture.svg`. Lines that begin with `$ ` are
what was typed. Colours are fixed, so that the picture reads the same on light and dark pages."""
import sys
from xml.sax.saxutils import escape

NBSP = "\u00a0"  # several blanks are not one
WIDTH, HEIGHT, PAD, HEAD = 7.9, 18, 16, 34  # of a character and a line, around the text, of the bar above it


def main():
    title, lines = sys.argv[1], sys.stdin.read().expandtabs(8).rstrip().split("\n")
    columns = max([len(line) for line in lines] + [60])
    width, height = columns * WIDTH + 2 * PAD, HEAD + len(lines) * HEIGHT + 2 * PAD
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
          f'height="{height:.0f}" role="img" aria-label="{escape(title)}">')
    print(f"<title>{escape(title)}</title>")
    print(f'<rect width="100%" height="100%" rx="9" fill="#12202b"/><rect width="100%" height="{HEAD}" rx="9" fill="#1d3140"/>')
    for at, colour in enumerate(["#ff6b61", "#f5c04f", "#5ac05a"]):
        print(f'<circle cx="{20 + at * 18}" cy="{HEAD / 2}" r="5" fill="{colour}"/>')
    print('<g font-family="ui-monospace,SFMono-Regular,Menlo,Consolas,DejaVu Sans Mono,monospace" font-size="13">')
    for at, line in enumerate(lines):
        y = HEAD + PAD + at * HEIGHT + 12
        typed = line.startswith("$ ")
        colour = "#8fe3c5" if typed else "#ff9d94" if line.startswith("error") else "#d7e3ea"
        length = f' textLength="{len(line) * WIDTH:.1f}" lengthAdjust="spacingAndGlyphs"' if line else ""
        print(f'<text x="{PAD}" y="{y}" fill="{colour}"{length}>{escape(line).replace(" ", NBSP)}</text>')
    print("</g></svg>")


main()
