"""A report as one HTML file: charts as SVG, sections, style and a little script.

- `markup`: elements; every string that is not markup is escaped.
- `scales`: from a value to its place on an axis.
- `marks`: points, intervals, lines and bars.
- `chart`: a picture with axes, a title and a description.
- `document`: sections as a whole file.
- `run_page`: the page of a run, from the sections in `sections`.
- `bisection`: the page of a search for bad blocks.
"""
