"""What the admin surface says about judges."""

from proxy.control.admin.models import Answer, MissingAnswer


class JudgedArm(Answer):
    """A judge's mean rating of an arm over all its answers, with a 95 % interval; ``ratings`` may be discounted."""

    arm: str
    ratings: float
    mean: float
    low: float
    high: float
    heuristics_weight: float


class JudgedPair(Answer):
    """Two prompts compared in both orders: the share that ``arm`` won (a tie is half) with an interval that holds
    at every look; ``torn`` verdicts moved with the order."""

    arm: str
    other_arm: str
    comparisons: int
    torn: int
    preference: float
    low: float
    high: float


class JudgeAnswer(Answer):
    """The judge of one route. ``judgements`` are counts by kind and result."""

    route: str
    name: str
    model: str
    version: str
    rate: float
    answers: bool
    problem: str | None
    spent_today_usd: float
    usd_per_day: float
    judgements: dict[str, int]
    cost_usd: float
    arms: list[JudgedArm]
    pairs: list[JudgedPair]


class JudgesAnswer(Answer):
    """Every route with a judge, how many samples wait, and what became of those that were drawn."""

    judges: list[JudgeAnswer]
    waiting: int
    samples: dict[str, int]
    incomplete: list[MissingAnswer] | None = None
