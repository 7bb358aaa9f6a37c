"""The replay of recorded prompts as a scenario."""

from loadtests import replay
from loadtests.figures import Figure
from loadtests.scenarios.context import Context, Report


def recorded(context: Context) -> Report:
    """Reward and cost per request next to every single model and the best fixed mix."""
    recording, courses = replay.run(show=lambda done: None)
    lines = replay.describe(recording, courses)
    context.say(f"{len(recording.rows)} prompts, {len(courses)} routes replayed")
    count = len(recording.rows)
    figures: list[Figure] = []
    for course in courses:
        reward, cost = course.mean(count)
        mix, _ = recording.best_mix(cost)
        name = f"replay {course.quality_weight:g}:{course.cost_weight:g}"
        figures += [
            Figure(f"{name}: reward, last pass", reward, "", note=f"best fixed mix at that cost {mix:.4f}"),
            Figure(f"{name}: cost per 1000 requests, last pass", cost * 1000, "USD"),
        ]
    return Report(tuple(figures), text="\n".join(lines))
