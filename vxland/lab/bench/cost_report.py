"""The result of `vxland bench --leases` as rows of a table, as Markdown and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from vxland.lab.bench.costs import ALONE, GROWN, GROWTH, MEASURES, Costs, Measure, Result, growth


def as_json(result: Result, machine: Mapping[str, object]) -> dict[str, object]:
    """Return everything: the sizes, their measures, the growth, the targets."""
    measured = (*MEASURES, ALONE)
    return {
        "store": result.store,
        "complete": not result.interrupted and not result.failures,
        "failures": result.failures,
        "machine": dict(machine),
        "alone_mib": result.alone_mib,
        "sizes": [asdict(costs) | {"measures": values(costs)} for costs in result.sizes],
        "growth": growth(result),
        "targets": {each.key: {"floor": each.floor, "aim": each.aim} for each in measured if each.floor is not None},
        "growth_targets": {key: {"floor": floor, "aim": aim} for key, (floor, aim) in GROWTH.items()},
    }


def values(costs: Costs) -> dict[str, float]:
    """Return the measures of a size by key, without those that were not made."""
    return {each.key: value for each in MEASURES if (value := each.value(costs)) is not None}


def table(result: Result) -> list[list[str]]:
    """Return a heading, and a row for each measure: the sizes, the growth, and in etcd the targets for 5,000 leases."""
    sizes = [f"{costs.leases:,}" for costs in result.sizes]
    grows = [f"{sizes[-1]} / {sizes[-2]}"] if result.grown else []
    judged = result.store == "etcd"
    rows = [[f"leases in {result.store}", *sizes, *grows, *(["floor", "aim"] if judged else [])]]
    ratios = growth(result)
    for each in MEASURES:
        found = [each.value(costs) for costs in result.sizes]
        if any(value is not None for value in found):
            ratio = [f"{ratios[each.key]:.2f}" if each.key in ratios else ""] if grows else []
            rows.append([_title(each), *(_shown(each, value) for value in found), *ratio, *_targets(each, judged)])
    if result.alone_mib is not None:
        blank = [""] * (len(sizes) - 1 + len(grows))
        rows.append([_title(ALONE), _shown(ALONE, result.alone_mib), *blank, *_targets(ALONE, judged)])
    if judged and result.grown and tuple(costs.leases for costs in result.grown) == GROWN:
        named = {each.key: each.title for each in MEASURES}
        for key, (floor, aim) in GROWTH.items():
            blank = [""] * len(sizes)
            ratio = [f"{ratios[key]:.2f}" if key in ratios else ""]
            rows.append([f"growth: {named[key]}", *blank, *ratio, f"{floor:g}", f"{aim:g}"])
    return rows


def markdown(result: Result, machine: Mapping[str, object]) -> str:
    """Return the table, and on what it was measured."""
    where = (
        f"Of {machine['date']}, on Linux {machine['kernel']} with {machine['cpus']} CPUs ({machine['cpu']}), Python"
        f" {machine['python']}, at a load of {machine['load_average']:.1f} before:"
    )
    lines = [
        where,
        "",
        *markdown_table(table(result)),
        *(f"- failed: {failure}" for failure in result.failures),
    ]
    return "\n".join(lines) + "\n"


def markdown_table(rows: list[list[str]]) -> list[str]:
    """Return the lines of a table in Markdown."""
    head, *others = rows
    rule = ["---", *["--:"] * (len(head) - 1)]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *others)]


def _title(each: Measure) -> str:
    return f"{each.title}, {each.unit}" if each.unit else each.title


def _shown(each: Measure, value: float | None) -> str:
    return "" if value is None else f"{value:,.{each.digits}f}"


def _targets(each: Measure, judged: bool) -> list[str]:
    return [] if not judged else ["" if target is None else f"{target:g}" for target in (each.floor, each.aim)]
