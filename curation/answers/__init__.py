"""The checker: the only code that says whether an answer is right.

    check("\\frac{1}{2}", "So the answer is 0.5.").state      # "correct"

Verification, pass rates, rewards and evaluation all call `check` or `check_many`. An answer goes through layers,
cheapest first (text, choice, number, symbolic, judge); the first that can decide does, and says so in
`Verdict.method`. What no layer decides is `undecided`, never `incorrect`.

Importing this package loads neither sympy nor math-verify: those run in worker processes that can be killed.
"""

from curation.answers.batch import check_many
from curation.answers.check import check
from curation.answers.explain import explain
from curation.answers.extract import Extraction, extract
from curation.answers.judge import Judge
from curation.answers.judging import Agreement, agreement
from curation.answers.policy import REVISION, Policy
from curation.answers.report import FileReport, check_file
from schemas.verdicts import Verdict

__all__ = [
    "REVISION",
    "Agreement",
    "Extraction",
    "FileReport",
    "Judge",
    "Policy",
    "Verdict",
    "agreement",
    "check",
    "check_file",
    "check_many",
    "explain",
    "extract",
]
