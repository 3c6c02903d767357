"""A finished run's dead letters, sent again: check, choose, dispatch, report, finish.

A redrive is a run folder inside the run's, `redrives/NNN`, that goes on where it was like any run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa

from moa.catalog import Model
from moa.config import RouteBatchConfig
from moa.dispatch.outcome import REASONS
from moa.errors import ConfigError, RunError
from moa.pipeline import redrive_lines as lines_of
from moa.pipeline.failures import told_plainly
from moa.pipeline.job import Job, job_again, run_folder_of
from moa.pipeline.nightly import dispatch_decided
from moa.pipeline.run import cluster, count_outcomes, manifest_of, telling, vendors
from moa.pipeline.selection import DECISION_COLUMNS, QUERY_COLUMNS, Selected, Selector, Tally
from moa.pipeline.stop import Stop, held
from moa.pipeline.unfinished import come_of, let_go
from moa.reports.run_report import write_report
from moa.reports.wording import money
from moa.storage.merged_run import MergedRun
from moa.storage.run_folder import PartName, PieceName, RunFolder


class Wanted(NamedTuple):
    """What the user has asked for."""

    reasons: tuple[str, ...] = ()
    """Of the dead letters that are sent again; none: whatever the reason."""
    to_model: str | None = None
    """Catalog id of whom to ask; `None`: whom the run has decided on."""

    def identity(self) -> dict[str, str]:
        """What must not change between two starts of a redrive."""
        return {"reasons": " ".join(sorted(self.reasons)), "to_model": self.to_model or ""}


class Redriven(NamedTuple):
    """What a redrive has to show."""

    lines: list[str]
    """Of the redrive, and of the run with it, for a terminal."""
    page: str | None
    """Where the HTML page of the run's report is; `None` when nothing was sent."""


def redrive(config: RouteBatchConfig, wanted: Wanted, *, environ: Mapping[str, str]) -> Redriven:
    """Send a run's dead letters again, or go on with it; then make the run's report again.

    Args:
        config: the run's own, see `as_begun`.
        wanted: which of them, and to whom.
        environ: with the keys.

    Raises:
        ConfigError: something that the config or the user names is missing or wrong.
        RunError: the run is not finished, another redrive is not, or another process sends its
            dead letters; its folder or its cluster failed.
        KeyRefused: a vendor refused an account's first call.
        Interrupted: SIGINT or SIGTERM came.
    """
    with told_plainly(), Stop() as stop:
        plan = _Plan.of(config, wanted, environ)
        if not plan.goes_on and not (tally := plan.survey()).asked:
            return Redriven(lines_of.nothing(tally), None)
        with held(plan.child.url, stop):
            with stop.at_once():
                plan.begin()
                left = plan.child.open_pieces()
            if left:
                with (
                    vendors(plan.job) as standing_in,
                    cluster(standing_in, scores=False),
                    telling(standing_in, stop) as tell,
                ):
                    dispatch_decided(standing_in, tell, stop, spent_usd=plan.run.spent_usd())
            return _finish(plan.parent, plan.child, config)


def abandon(config: RouteBatchConfig) -> Redriven:
    """Close the run's unfinished redrive with what has come of it, and make the run's report again.
    Its other queries stay dead.

    Raises:
        RunError: there is none, or another process is at work on it.
    """
    with told_plainly(), Stop() as stop:
        parent = _finished_run(config)
        child = _unfinished(parent)
        if child is None:
            raise RunError(f"{parent.url} has no unfinished redrive: nothing is to be abandoned")
        with held(child.url, stop), stop.at_once():
            _check_open(child)
            let_go(child, MergedRun(parent))
            return _finish(parent, child, config)


def dry_run(config: RouteBatchConfig, wanted: Wanted, *, environ: Mapping[str, str]) -> str:
    """Say what would be sent again, and call nobody.

    Raises:
        ConfigError, RunError: as `redrive`.
    """
    with told_plainly():
        plan = _Plan.of(config, wanted, environ)
        if plan.goes_on:
            so_far = come_of(plan.child, plan.child.peek_journals)
            left_usd = plan.left_usd(so_far.spent_usd)
            lines = lines_of.going_on(plan.child, so_far)
        else:
            left_usd = plan.left_usd()
            lines = lines_of.announced(plan.survey(), plan.child, left_usd)
    if left_usd is not None:
        lines.append(f"budget        {money(left_usd)} of dispatch.budget_usd are left")
    return "\n".join([*lines, "Nothing was called and nothing written."])


@dataclass(frozen=True, slots=True)
class _Plan:
    """A redrive that may begin or go on."""

    config: RouteBatchConfig
    wanted: Wanted
    parent: RunFolder
    run: MergedRun
    """The parent with its redrives."""
    child: RunFolder
    goes_on: bool
    """It has begun before, and has chosen what it sends."""
    job: Job
    """What the dispatchers are told."""
    select: Selector
    identity: dict[str, str]

    @classmethod
    def of(cls, config: RouteBatchConfig, wanted: Wanted, environ: Mapping[str, str]) -> _Plan:
        """Check all that can be checked without a call."""
        _check_reasons(wanted.reasons)
        parent = _finished_run(config)
        first = parent.first_start()
        assert first is not None
        child = _unfinished(parent) or parent.redrive(len(parent.redrives()) + 1)
        goes_on = _goes_on(child, wanted, child.peek_journals)
        begun = child.first_start() if goes_on else None
        job = job_again(
            config,
            {**first, "prices": (begun or first)["prices"]},
            to_model=wanted.to_model,
            run_folder=child.url,
            environ=environ,
        )
        return cls(
            config=config,
            wanted=wanted,
            parent=parent,
            run=MergedRun(parent),
            child=child,
            goes_on=goes_on,
            job=job,
            select=_selector(config, wanted, job),
            identity={**first["identity"], **wanted.identity()},
        )

    def left_usd(self, open_usd: Decimal = Decimal(0)) -> Decimal | None:
        """Of the budget, without what the run and its finished redrives have spent, and this one.

        Args:
            open_usd: what this one has spent.
        """
        budget_usd = self.config.dispatch.budget_usd
        if budget_usd is None:
            return None
        return max(Decimal(0), budget_usd - self.run.spent_usd() - open_usd)

    def survey(self) -> Tally:
        """What there is to send.

        Raises:
            RunError: there is something, and no money for it.
        """
        tally = Tally()
        for part in self.run.dead_parts():
            self._selected(part, tally, whole=False)
        if tally.asked and self.left_usd() == 0:
            raise RunError(
                f"the run has spent {money(self.run.spent_usd())}, and dispatch.budget_usd is "
                f"{money(self.config.dispatch.budget_usd or 0)}: nothing is left to send its dead "
                "letters again. Raise it: --set dispatch.budget_usd=…"
            )
        return tally

    def begin(self) -> None:
        """Choose what is sent, once a redrive; its lock is held."""
        child = self.child
        _check_open(child)
        if _goes_on(child, self.wanted, child.read_journals):
            return
        child.forget()
        child.begin(self.job.facts() | {"redrive": self._facts()}, identity=self.identity)
        tally = Tally()
        for part in self.run.dead_parts():
            selected = self._selected(part, tally, whole=True)
            if selected.queries.num_rows:
                child.write_queries(part, selected.queries)
                child.write_decisions(part, selected.decisions)
        child.write_selection(
            tally.asked, {"sent": tally.sent, "left": [[*key, n] for key, n in tally.left.items()]}
        )

    def _facts(self) -> dict[str, Any]:
        return {
            "of": self.config.run.id,
            "reasons": self.wanted.reasons,
            "to_model": self.wanted.to_model,
        }

    def _selected(self, part: PartName, tally: Tally, *, whole: bool) -> Selected:
        """What is sent of a part: all its columns, or those that it takes to count it."""
        letters = self.run.dead_letters_of(part, columns=["query_id", "reason"])
        return self.select(
            self.parent.read_queries(part, columns=None if whole else QUERY_COLUMNS),
            self.parent.read_decisions(part, columns=None if whole else DECISION_COLUMNS),
            pa.concat_tables(letters),
            tally,
        )


def _selector(config: RouteBatchConfig, wanted: Wanted, job: Job) -> Selector:
    to: Model | None = job.models[0] if wanted.to_model else None
    reasons = frozenset(wanted.reasons)
    return Selector(pool=tuple(config.pool), prices=job.prices, reasons=reasons, to=to)


def _check_reasons(reasons: tuple[str, ...]) -> None:
    for reason in reasons:
        if reason not in REASONS:
            raise ConfigError(
                f"--reason {reason}: no dead letter has that reason; there are "
                f"{', '.join(sorted(REASONS))}"
            )


def _finished_run(config: RouteBatchConfig) -> RunFolder:
    """Only what a run has given up can be sent again."""
    run = RunFolder(run_folder_of(config))
    if run.manifest() is None:
        raise RunError(
            f"{run.url} is not finished: finish it by jobs/route_batch.py with this config, then "
            "send its dead letters again"
        )
    return run


def _unfinished(run: RunFolder) -> RunFolder | None:
    """Its last redrive, when that was begun and not finished."""
    last = run.redrives()[-1:]
    return last[0] if last and last[0].manifest() is None else None


def _check_open(child: RunFolder) -> None:
    if child.manifest() is not None:
        raise RunError(
            f"{child.url} was finished by another process just now: start again for what is still "
            "dead"
        )


def _goes_on(
    child: RunFolder, wanted: Wanted, read: Callable[[PieceName], Iterable[bytes]]
) -> bool:
    """Whether a redrive goes on; if not, it begins, or begins anew: it was killed while it chose,
    or nothing has come of it and another one is wanted.

    Raises:
        RunError: something has come of it, and it was begun with other flags.
    """
    first = child.first_start()
    if first is None or child.selection() is None:
        return False
    if child.is_abandoned():
        raise RunError(f"{child.url} was being closed: --abandon ends that")
    kept = Wanted(tuple(first["redrive"]["reasons"]), first["redrive"]["to_model"])
    if kept.identity() == wanted.identity():
        return True
    if come_of(child, read).nothing:
        return False
    raise RunError(
        f"{child.url} was begun with {_flags(kept)} and is not finished: give the same again to "
        "finish it, or --abandon to close it with what it has; then start another one"
    )


def _flags(wanted: Wanted) -> str:
    """As on the command line."""
    flags = [f"--reason {reason}" for reason in wanted.reasons]
    flags += [f"--to-model {wanted.to_model}"] if wanted.to_model else []
    return " ".join(flags) or "neither --reason nor --to-model"


def _finish(parent: RunFolder, child: RunFolder, config: RouteBatchConfig) -> Redriven:
    """Count the outcomes, make the run's report again, then write the manifest: last, so that a
    start that is killed before goes on, and finds nothing to send.
    """
    counts, cost_usd = count_outcomes(child)
    written = write_report(parent.url, config)
    child.finish(manifest_of(counts, cost_usd, written))
    lines = lines_of.done(child, counts, cost_usd)
    return Redriven([*lines, "the run with it:", *written.summary], written.page)
