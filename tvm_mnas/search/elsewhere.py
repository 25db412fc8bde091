"""A search whose accuracies and latencies somebody else knows: a table, or an evaluator of one's own.

Nothing is trained, compiled or measured here, so there is nothing to export: the result names the best candidate, by
what the evaluator knows of it beyond the search where it has a `judge`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm_mnas.evaluation.results import Evaluator, Judging, Replicating
from tvm_mnas.search.loop import SearchObserver, run_trials
from tvm_mnas.search.proxy import Replicates
from tvm_mnas.search.result import SearchResult, pick_finalists
from tvm_mnas.search.run import RunDirectory, TrialRecord
from tvm_mnas.space.catalogue import Space

if TYPE_CHECKING:
    import optuna


def search_on(
    evaluator: Evaluator,
    run: RunDirectory,
    space: Space,
    study: optuna.Study,
    observer: SearchObserver,
) -> SearchResult:
    """Finish the search of `run` by what `evaluator` says, and return its result, which has no export.

    Raises:
        ConfigError: if the evaluator does not know a candidate.
        RunError: if the study cannot be read.
    """
    replicates = (
        Replicates(run, study, evaluator, observer, side_by_side=1)
        if isinstance(evaluator, Replicating)
        else None
    )
    run_trials(
        run,
        space,
        study,
        evaluator,
        on_trial=observer.trial,
        on_batch=replicates.train_due if replicates else lambda: None,
    )
    if replicates:
        replicates.train_due(last=True)
    records = run.trials(study)
    finalists = pick_finalists(records, run.config.finalists)
    if not finalists:
        return SearchResult(run.path, records, None, None, None)
    best = max(finalists, key=lambda record: (_worth(evaluator, run, record), -record.number))
    if isinstance(evaluator, Judging):
        accuracy, latency_ms = evaluator.judge(best.evaluation.architecture)
        observer.note(
            f"trial {best.number} by all that {run.config.evaluator} knows of it: accuracy {accuracy:.2%}, "
            f"{latency_ms:.4g} ms, reward {run.reward(accuracy, latency_ms):.4f}"
        )
    return SearchResult(run.path, records, best, None, None)


def _worth(evaluator: Evaluator, run: RunDirectory, record: TrialRecord) -> float:
    assert record.reward is not None
    if isinstance(evaluator, Judging):
        return run.reward(*evaluator.judge(record.evaluation.architecture))
    return record.reward
