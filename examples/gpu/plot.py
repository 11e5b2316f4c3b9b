"""Draws what `gpu measure` has measured: plot.py MEASURED_JSON FOLDER"""

import itertools
import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# The engine is grey and behind, the gateway has a model's colour.
COLORS = ["#0a7d6c", "#b3541e", "#4053a8", "#8a2b6b"]
ENGINE = {"linestyle": "--", "linewidth": 1.2, "marker": "o", "markersize": 6, "markerfacecolor": "white"}
GATEWAY = {"linewidth": 1.6, "marker": "o", "markersize": 3.5}


def title(axes, what, unit):
    axes.set_title(what, loc="left", fontsize=10, fontweight="bold")
    axes.set_ylabel(unit, fontsize=9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def steps(axes, numbers, label):
    axes.set_xscale("log", base=2)
    axes.set_xticks(numbers, [f"{number:,}" for number in numbers])
    axes.xaxis.minorticks_off()
    axes.set_xlabel(label, fontsize=9)


def draw(measured):
    figure, ((speed, ratio), (bandwidth, prompt)) = plt.subplots(2, 2, figsize=(11, 8), layout="constrained")
    at_once, lengths = set(), set()
    for place, (model, color) in enumerate(zip(measured["models"], itertools.cycle(COLORS))):
        levels, prompts = model["alone"]["levels"], model["alone"]["prompts"]
        numbers = [level["at_once"] for level in levels]
        tokens = [row["prompt_tokens"] for row in prompts]
        at_once.update(numbers)
        lengths.update(tokens)
        for side, style in (("engine", ENGINE), ("gateway", GATEWAY)):
            label = f"{model['name']}, {side}"
            speed.plot(numbers, [level[side]["tokens_per_s"] for level in levels], color=color, label=label, **style)
            prompt.plot(tokens, [row[f"{side}_ms"] for row in prompts], color=color, label=label, **style)
        shares = [level["gateway"]["bandwidth_share"] for level in levels]
        if None not in shares:
            bandwidth.plot(numbers, [share * 100 for share in shares], color=color, label=model["name"], **GATEWAY)
        spread = [[level["ratio"]["median"] - level["ratio"]["lowest"] for level in levels],
                  [level["ratio"]["highest"] - level["ratio"]["median"] for level in levels]]
        medians = [level["ratio"]["median"] for level in levels]
        # One beside the other, where they would hide each other.
        beside = [number * 1.06**place for number in numbers]
        ratio.errorbar(beside, medians, yerr=spread, color=color, label=model["name"], capsize=3, **GATEWAY)
    title(speed, "All streams together", "tokens per second")
    speed.set_yscale("log")
    title(ratio, "Through the gateway, over the engine by itself", "ratio of tokens per second")
    ratio.axhline(0.98, color="black", linewidth=0.8, linestyle=":", label="0.98, what is aimed at")
    title(bandwidth, "Of what the memory's bandwidth allows", "%")
    bandwidth.set_ylim(bottom=0)
    title(prompt, "Time to the first token", "ms")
    prompt.set_yscale("log")
    for axes in (speed, ratio, bandwidth):
        steps(axes, sorted(at_once), "streams at once")
    steps(prompt, sorted(lengths), "tokens of the prompt")
    for axes in (speed, ratio, bandwidth, prompt):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, frameon=False)
        else:
            axes.set_visible(False)
    machine = measured["machine"]
    where = machine["gpu"]["name"] if machine["gpu"] else f"{machine['device']}, {machine['cpu_threads']} threads"
    figure.suptitle(f"{where}; commit {measured['commit']}, {measured['time'][:10]}", fontsize=10, x=0.01, ha="left")
    return figure


def main():
    measured, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    figure = draw(measured)
    for kind in ("svg", "png"):
        figure.savefig(folder / f"measured.{kind}", dpi=110)


if __name__ == "__main__":
    main()
