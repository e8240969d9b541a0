"""A run in words: verdict, table, remarks and explanation, for a terminal and as Markdown."""

from .columns import HEADINGS as HEADINGS
from .columns import headings as headings
from .columns import lines as lines
from .explanation import explanation as explanation
from .explanation import legend as legend
from .markdown import markdown as markdown
from .remarks import measuring as measuring
from .remarks import remarks as remarks
from .remarks import rounds_done as rounds_done
from .remarks import threads as threads
from .remarks import title as title
from .remarks import warnings as warnings
from .terminal import show as show
from .terminal import text as text
from .verdict import Verdict as Verdict
from .verdict import verdict as verdict
