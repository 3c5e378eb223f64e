"""Small tables of evaluation episodes whose scores are known by hand."""

import pyarrow as pa

TASKS = ("reach", "push")
# Successes in four episodes, by method, task and seed.
WON = {
    "base": {"reach": (1, 2, 1), "push": (0, 1, 1)},
    "apo": {"reach": (3, 4, 3), "push": (2, 1, 4)},
    "bc": {"reach": (2, 2, 4), "push": (0, 1, 2)},
}


def episodes(method, task, seed, won, *, n=4, regime="one-round", on=None, scene="original", first=100):
    return [
        {
            "regime": regime,
            "task": task,
            "seed": seed,
            "method": method,
            "evaluated_on": on or task,
            "scene": scene,
            "episode_seed": first + 10 * seed + i,
            "success": i < won,
            "steps": 50,
            "would_intervene": i >= won,
            "optimiser_steps": 0 if method == "base" else 100 + seed,
            "deployment_episodes": 10,
            "deployment_takeovers": 5 + seed,
            "deployment_human_share": 0.2,
            "seconds": 1.0,
        }
        for i in range(n)
    ]


def made(won=None, **options):
    won = WON if won is None else won
    return [
        row
        for method, tasks in won.items()
        for task, seeds in tasks.items()
        for seed, count in enumerate(seeds)
        for row in episodes(method, task, seed, count, **options)
    ]


def table(rows):
    return pa.Table.from_pylist(rows)
