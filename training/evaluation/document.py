"""The tables of an evaluation, as Markdown."""

COLUMNS = {
    "explained_variance": "expl. var.",
    "explained_variance_between": "between prompts",
    "explained_variance_within": "within",
    "ranking_accuracy": "pairs in order",
    "bias": "bias",
    "mae": "MAE",
    "crps": "CRPS",
    "wasserstein_1": "Wasserstein-1",
    "coverage_80": "80 % covers",
    "pit_ks": "PIT distance",
    "value_auc_0": "AUC prompt",
    "value_auc_25": "AUC 25 %",
    "value_auc_50": "AUC 50 %",
    "value_auc_100": "AUC 100 %",
}
DOMAINS = {"in": "in domain", "out": "out of domain"}
PREDICTORS = ("critic", "constant", "scalar")


def as_markdown(evaluation: dict) -> str:
    """The whole page: every set's critic beside its baselines, then the critic on subsets."""
    sets = evaluation["sets"]
    revision = f" at `{evaluation['revision']}`" if evaluation["revision"] else ""
    parts = [f"Evaluation of `{evaluation['critic']}`{revision}.", "\n".join(map(_set_line, sets))]
    parts += [predictors_table(sets), _legend(evaluation)]
    for one in sets:
        if found := one.get("best_of_n"):
            parts += [_best_of_n_line(one["name"], found), best_of_n_table(found)]
    if any(one["subsets"] for one in sets):
        parts += ["The critic on subsets:", subsets_table(sets)]
    return "\n\n".join(parts) + "\n"


def predictors_table(sets: list[dict]) -> str:
    """One line a set and predictor; a column that none of them has is left out."""
    found = [(one, who) for one in sets for who in PREDICTORS if who in one["metrics"]]
    shown = [name for name in COLUMNS if any(name in one["metrics"][who] for one, who in found)]
    lines = [[one["name"], who, *_cells(one["metrics"][who], shown, one, who)] for one, who in found]
    return _table(["set", "predictor", *(COLUMNS[name] for name in shown)], lines, texts=2)


def subsets_table(sets: list[dict]) -> str:
    """One line a set and subset, of the critic."""
    found = [(one, name, subset) for one in sets for name, subset in one["subsets"].items()]
    own = [subset["metrics"]["critic"] for _, _, subset in found]
    shown = [name for name in COLUMNS if any(name in metrics for metrics in own)]
    lines = [
        [one["name"], f"`{name}`", str(subset["rows"]), *_cells(metrics, shown, subset, "critic")]
        for (one, name, subset), metrics in zip(found, own, strict=True)
    ]
    return _table(["set", "subset", "responses", *(COLUMNS[name] for name in shown)], lines, texts=2)


def best_of_n_table(found: dict) -> str:
    """One line a way to choose: mean reward of what it chooses among n, and the pairs that it has in order."""
    sizes = list(found["ways"]["chance"]["reward"])
    lines = [
        [way, *(_with_interval(own["reward"][size]) for size in sizes), _with_interval(own.get("order"))]
        for way, own in found["ways"].items()
    ]
    return _table(["chosen by", *(f"n = {size}" for size in sizes), "pairs in order"], lines, texts=1)


def _best_of_n_line(name: str, found: dict) -> str:
    left = f" ({found['left_out']:,} with fewer are left out)" if found["left_out"] else ""
    return (
        f"Best of n on {name}: mean reward of the response that is chosen among n, of {found['responses']} responses "
        f"to each of {found['prompts']:,} prompts{left}; in brackets 95 % intervals over prompts."
    )


def _with_interval(found: list[float] | None) -> str:
    return f"{_number(found[0])} [{_number(found[1])}, {_number(found[2])}]" if found else ""


def _number(figure: float) -> str:
    return f"{round(figure, 3) + 0.0:.3f}"  # 0.0 turns -0 into 0


def _set_line(one: dict) -> str:
    truth = f"{one['continuations']} continuations of each" if one["truth"] == "monte_carlo" else "one return of each"
    share = one["metrics"]["critic"].get("variance_within")
    within = "" if share is None else f", {100 * share:.0f} % of the returns' variance within prompts"
    return (
        f"- {one['name']}: {DOMAINS[one['domain']]}; {one['rows']:,} responses to {one['prompts']:,} "
        f"prompts, {one['states']:,} states, {truth}{within}; "
        f"`{one['dataset']}`"
    )


def _cells(metrics: dict, shown: list[str], of: dict, who: str) -> list[str]:
    cells = []
    for name in shown:
        cell = _number(metrics[name]) if name in metrics else ""
        interval = of["intervals"].get(who, {}).get(name)
        if who == "critic" and name.startswith("coverage_"):
            interval = of["coverage_interval"].get(name.removeprefix("coverage_"))
        cells.append(f"{cell} [{_number(interval[0])}, {_number(interval[1])}]" if interval else cell)
    return cells


def _legend(evaluation: dict) -> str:
    constant = evaluation["constant_from"]
    source = f"of `{constant}`" if constant else "of the set itself (the best constant in hindsight)"
    parts = [f"Constant: the quantiles of the returns {source}."]
    sets = evaluation["sets"]
    if any(one["coverage_interval"] for one in sets):
        parts.append("In brackets: 95 % intervals that count prompts, not states.")
    if any("ranking_accuracy" in one["metrics"]["critic"] for one in sets):
        parts.append(
            "Pairs in order: of two responses to one prompt with unequal rewards, how often the better one has the "
            "higher value before its last token; chance is 0.5. Between prompts, within: explained variance of the "
            "prompts' means, and of what is left."
        )
    if any("value_auc_50" in one["metrics"]["critic"] for one in sets):
        parts.append(
            "AUC: of the value after that share of a response against its being right; of the prompt's own value, "
            "which knows how hard it is and no more."
        )
    parts.append(
        "MAE, CRPS and Wasserstein-1 are errors. Where returns have two values, a scalar critic is read as the "
        "distribution of two points that it is; elsewhere its CRPS is its mean absolute error."
    )
    if any(one["truth"] == "returns" for one in sets):
        parts.append("Against one return, a perfect critic's explained variance is below 1.")
    return " ".join(parts)


def _table(header: list[str], lines: list[list[str]], *, texts: int) -> str:
    rule = ["---"] * texts + ["---:"] * (len(header) - texts)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, rule, *lines])
