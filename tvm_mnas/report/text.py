"""What a result says in a sentence or two, for a person in front of a terminal or a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm_mnas.cores.precision import FLOAT32
from tvm_mnas.devices.core.latency import untuned_flag
from tvm_mnas.evaluation.results import format_duration
from tvm_mnas.training.accuracy import MEAN_AVERAGE_PRECISION, TOP_1, Score

if TYPE_CHECKING:
    from tvm_mnas.evaluation.roofline import DevicePeak
    from tvm_mnas.report.rows import LatencyForecast
    from tvm_mnas.search.result import SearchResult
    from tvm_mnas.workflows.bench import BenchResult
    from tvm_mnas.workflows.plan import SearchPlan
    from tvm_mnas.workflows.tune import Forecast, TuneResult


def bench_line(result: BenchResult) -> str:
    """Return the latency, how it was measured and what stands against it."""
    latency = result.latency
    flag = f", {latency.untuned_flag}" if latency.untuned_flag else ""
    noisy = f", above the profile's {latency.max_spread:.0%}" if latency.noisy else ""
    computed = "" if latency.precision == FLOAT32 else f" in {latency.precision}"
    by = "by their records"
    if not all(kernel.tuned for kernel in result.kernels):
        by += " or, untuned, their own times"
    text = (
        f"{latency.latency_ms:.4g} ms end to end on {latency.device_key}{computed} "
        f"(median of {len(latency.samples_ms)}, spread {latency.spread:.1%}{noisy}){flag}"
    )
    if result.one_session:
        text += (
            f"; the sum of its kernels {by} is {result.kernels_ms:.4g} ms, "
            f"{result.kernels_ms / latency.latency_ms:.0%} of it"
        )
    else:
        text += "; its kernels were timed in another session, so their sum is not set beside it"
    if result.untuned_ms is not None:
        text += f"; untuned they are {result.untuned_ms:.4g} ms"
    agreement = result.agreement
    text += f"; outputs within {agreement.difference:.1g} of {agreement.judge}'s, relative to how far images differ"
    text += "".join(f"; UNSTABLE DEVICE: {warning}" for warning in latency.warnings)
    return f"{text}; EMULATED, not a latency" if latency.emulated else text


def peak_line(result: BenchResult) -> str:
    """Return the core's peak and how near to it the network comes, or why there is none."""
    if result.peak is None or result.limit_ms is None:
        return f"the core's peak could not be measured: {result.peak_failure}"
    return (
        f"{device_peak_line(result.peak)}; all kernels at their limit {result.limit_ms:.4g} ms, "
        f"{result.limit_ms / result.latency.latency_ms:.0%} of the end-to-end latency"
    )


def device_peak_line(peak: DevicePeak) -> str:
    """Return the most that one core was seen to do."""
    sizes = ", ".join(f"{rate / 1e9:.0f} at {_format_size(size)}" for size, rate in peak.bandwidths)
    return f"one core's measured peak: {peak.flops_per_s / 1e9:.1f} GFLOP/s; GB/s: {sizes}"


def score_text(score: Score) -> str:
    """Return the measures of a score: `93.10% top-1 and 99.00% top-5`, or `mAP 53.1% (at 0.5 80.0%, ...)`."""
    if score.metric == TOP_1:
        return f"{score.value:.2%} top-1 and {score.measures['top5']:.2%} top-5"
    words = {"map_50": "at 0.5", "map_small": "small", "map_medium": "medium", "map_large": "large"}
    parts = [
        f"{word} {score.measures[name]:.1%}"
        for name, word in words.items()
        if name in score.measures
    ]
    return f"mAP {score.value:.1%} ({', '.join(parts)})"


def forecast_line(forecast: Forecast) -> str:
    """Return what a tuning is going to take."""
    if not forecast.lacking:
        return f"nothing to tune: all of the {forecast.kernels} kernels have been given their schedules"
    text = (
        f"{forecast.kernels} kernels, {forecast.lacking} of them lack schedules; "
        f"{forecast.schedules} schedules to measure"
    )
    if forecast.expected_s is None:
        return f"{text}; how long that takes will be known after the first kernels"
    return (
        f"{text}, about {format_duration(forecast.expected_s)} "
        f"at {forecast.seconds_per_schedule:.2g} s a schedule, as in the tunings before"
    )


def latency_forecast_line(forecast: LatencyForecast) -> str:
    """Return how a latency follows from kernels' times, and how far such a guess is off."""
    text = (
        f"a forecast, which no reward used: latency in ms = {forecast.predictor.formula}, "
        f"fitted on {forecast.candidates} candidates"
    )
    if forecast.noisy:
        text += f", {forecast.noisy} of them measured with a spread beyond the profile's"
    if forecast.error_percent is None:
        return f"{text}; too few to tell how far it is off"
    rank = "undefined" if forecast.spearman is None else f"{forecast.spearman:.3f}"
    return (
        f"{text}; each guessed by the others alone: mean absolute error {forecast.error_percent:.1f}%, "
        f"rank correlation (Spearman) {rank}"
    )


def tune_line(result: TuneResult) -> str:
    """Return what was tuned and what failed."""
    if not result.forecast.lacking:
        return forecast_line(result.forecast)
    failed = ", ".join(f"{reason} {count}" for reason, count in sorted(result.failures.items()))
    text = (
        f"{result.tuned} kernels tuned with {result.measured} schedules in "
        f"{format_duration(result.duration_s)}; failed: {failed or 'none'}"
    )
    without = sum(kernel.best_us is None for kernel in result.kernels)
    return f"{text}; {without} kernels have no schedule that ran" if without else text


def search_lines(result: SearchResult) -> list[str]:
    """Return the few lines that sum a search up."""
    from tvm_mnas.search.proxy import noise_line, noise_of

    counts = result.summary()
    lines = [
        f"{counts['trials']} trials, {counts['candidates']} different candidates, "
        f"{counts['failed']} failed; {counts['kernels_tuned']} kernels tuned with "
        f"{counts['schedules_measured']} schedules, {counts['tuning_s_per_candidate']:.1f} s of tuning "
        f"per candidate"
    ]
    if (noise := noise_of(result.records)) is not None:
        lines.append(noise_line(noise))
    if result.best is None:
        lines.append("no candidate succeeded; `tvm-mnas report RUN` lists the reasons")
        return lines
    if result.manifest is None:
        # Evaluated elsewhere: there are no weights to export.
        lines.append(
            f"best: trial {result.best.number}, {result.best.evaluation.architecture.notation}"
        )
        return lines
    manifest, latency = result.manifest, result.manifest.latency
    untuned = untuned_flag(latency.coverage.untuned_percent)
    flag = f", {untuned}" if untuned else ""
    flag += "".join(f", UNSTABLE DEVICE: {warning}" for warning in latency.warnings)
    metric = "mAP: " if manifest.test.metric == MEAN_AVERAGE_PRECISION else ""
    lines += [
        f"best: trial {result.best.number}, {manifest.architecture}",
        f"      {metric}validation {manifest.validation.top1:.2%}, test {manifest.test.top1:.2%} "
        f"after {manifest.validation.steps} steps; {latency.latency_ms:.4g} ms on "
        f"{latency.device_key} (spread {latency.spread:.1%}{flag})",
        f"      {result.export}/net.so",
    ]
    return lines


def plan_rows(plan: SearchPlan) -> list[dict[str, object]]:
    """Return what a search would take, a row for each figure."""
    training, device = plan.training, plan.device
    known = "" if device.all_known else " or more, by the candidates looked at"
    figures = {
        "images a second, one training": f"{training.images_per_s:,.0f}",
        f"training a candidate ({plan.steps:,} steps, {plan.epochs:.2f} epochs)": format_duration(
            plan.steps * training.step_s
        ),
        f"evaluating it ({training.validation_images:,} images)": format_duration(
            training.validation_images / training.evaluated_per_s
        ),
        "trainings: candidates, again, finalists": (
            f"{plan.trials:,} + {plan.replicates} + {plan.finalists} x {plan.final_factor:g}"
        ),
        f"{plan.places[:-1]}-hours in all": f"{plan.training_s / 3600:,.2f}",
        "kernels to tune": f"{device.lacking:,} of {device.kernels:,}{known}",
        f"tuning ({device.schedules:,} schedules, {device.schedule_s:.2g} s each)": format_duration(
            device.tuning_s
        ),
        "compiling and measuring a candidate": format_duration(device.candidate_s),
        "device-hours in all": f"{plan.device_s / 3600:,.2f}",
    }
    return [{"what": what, "how_much": how_much} for what, how_much in figures.items()]


def plan_lines(plan: SearchPlan) -> list[str]:
    """Return the time that a search would take, what most of it goes to, and what more accelerators would change."""
    share = plan.training_s / plan.at_once / plan.total_s(plan.at_once)
    if plan.bottleneck == "training":
        most = f"{share:.0%} of it training"
    else:
        most = f"{1 - share:.0%} of it at the device"
    others = ", ".join(
        f"with {count} {format_duration(plan.total_s(count))}" for count in (1, 8, 64)
    )
    lines = [
        f"about {format_duration(plan.total_s(plan.at_once))} with the {plan.at_once} {plan.places} here, {most}; "
        f"{others}"
    ]
    if plan.epochs < 1:
        lines.append(
            f"a candidate would see {plan.epochs:.2f} epochs, so that its accuracy is rough; "
            f"--train-epochs 1 is one"
        )
    return lines


def _format_size(size_bytes: int) -> str:
    kib = size_bytes // 1024
    return f"{kib} KiB" if kib < 1024 else f"{kib // 1024} MiB"
