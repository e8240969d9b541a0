"""A run in words: verdict, table, remarks and explanation, for a terminal and as Markdown."""

from .columns import HEADINGS as HEADINGS
from .columns import headings as headings
from .columns import lines as lines
from .document import markdown as markdown
from .explanation import explanation as explanation
from .explanation import legend as legend
from .first_line import Verdict as Verdict
from .first_line import verdict as verdict
from .sections import measuring as measuring
from .sections import remarks as remarks
from .sections import rounds_done as rounds_done
from .sections import threads as threads
from .sections import title as title
from .sections import warnings as warnings
from .terminal import show as show
from .terminal import text as text
