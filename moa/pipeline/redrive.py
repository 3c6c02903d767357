"""A finished run's dead letters, sent again: check, choose, dispatch, report, finish.

A redrive is a run folder inside the run's, `redrives/NNN`, that goes on where it was like any run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa

from moa.config import RouteBatchConfig
from moa.errors import ConfigError, RunError
from moa.pipeline.failures import told_plainly
from moa.pipeline.job import Job, check_job, job_of_one
from moa.pipeline.nightly import dispatch_decided
from moa.pipeline.run import cluster, count_outcomes, held, telling, vendors
from moa.pipeline.selection import Selected, Selector, Tally
from moa.pipeline.stop import Stop
from moa.reports.page import REMEDIES
from moa.reports.run_report import write_report
from moa.reports.wording import money, queries
from moa.storage.merged_run import MergedRun
from moa.storage.run_folder import PartName, RunFolder


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

    Raises:
        ConfigError, ArtifactError: something that the config or the user names is missing or wrong.
        RunError: the run is not finished, was made with another config, or another process sends
            its dead letters; its folder or its cluster failed.
        KeyRefused: a vendor refused an account's first call.
        Interrupted: SIGINT or SIGTERM came.
    """
    plan = _Plan.of(config, wanted, environ)
    with told_plainly(), Stop() as stop:
        if not plan.goes_on and not (tally := plan.survey()).asked:
            return Redriven(_nothing(tally), None)
        with held(plan.child.url, stop):
            with stop.at_once():
                plan.begin()
            with (
                vendors(plan.job) as standing_in,
                cluster(standing_in, scores=False),
                telling(config, stop) as tell,
            ):
                dispatch_decided(standing_in, tell, stop, spent_usd=plan.run.spent_usd())
            return _finish(plan)


def dry_run(config: RouteBatchConfig, wanted: Wanted, *, environ: Mapping[str, str]) -> str:
    """Say what would be sent again, and call nobody.

    Raises:
        ConfigError, ArtifactError, RunError: as `redrive`.
    """
    plan = _Plan.of(config, wanted, environ)
    with told_plainly():
        lines = _going_on(plan.child) if plan.goes_on else _announced(plan.survey(), plan.child)
        left_usd = plan.left_usd()
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
    """The parent with the redrives before this one."""
    child: RunFolder
    goes_on: bool
    """It has begun before, and was not finished."""
    job: Job
    """What the dispatchers are told."""
    select: Selector
    identity: dict[str, str]

    @classmethod
    def of(cls, config: RouteBatchConfig, wanted: Wanted, environ: Mapping[str, str]) -> _Plan:
        """Check all that can be checked without a call."""
        _check_reasons(wanted.reasons)
        whole = check_job(config, environ=environ, backlog=False)
        parent = RunFolder(whole.run_folder)
        _check_finished(parent, whole)
        redrives = parent.redrives()
        goes_on = bool(redrives) and redrives[-1].manifest() is None
        child = redrives[-1] if goes_on else parent.redrive(len(redrives) + 1)
        if goes_on:
            _check_same(child, wanted)
        job = _job(whole, wanted, child.url, environ)
        return cls(
            config=config,
            wanted=wanted,
            parent=parent,
            run=MergedRun(parent),
            child=child,
            goes_on=goes_on,
            job=job,
            select=Selector(
                pool=whole.pool,
                prices=job.prices,
                reasons=frozenset(wanted.reasons),
                to=job.models[0] if wanted.to_model else None,
            ),
            identity={
                **whole.identity(),
                "model_prices": job.prices.version,
                **wanted.identity(),
            },
        )

    def left_usd(self) -> Decimal | None:
        """Of the budget, without what the run and its finished redrives have spent."""
        budget_usd = self.config.dispatch.budget_usd
        return None if budget_usd is None else max(Decimal(0), budget_usd - self.run.spent_usd())

    def survey(self) -> Tally:
        """What there is to send.

        Raises:
            RunError: there is something, and no money for it.
        """
        tally = Tally()
        for part in self.run.dead_parts():
            self._selected(part, tally)
        if tally.asked and self.left_usd() == 0:
            raise RunError(
                f"the run has spent {money(self.run.spent_usd())}, and dispatch.budget_usd is "
                f"{money(self.config.dispatch.budget_usd or 0)}: nothing is left to send its dead "
                "letters again. Raise it: --set dispatch.budget_usd=…"
            )
        return tally

    def begin(self) -> None:
        """Choose what is sent, once a redrive; its lock is held."""
        if self.child.manifest() is not None:
            raise RunError(
                f"{self.child.url} was finished by another process just now: start again for what "
                "is still dead"
            )
        self.child.begin(self.job.facts() | {"redrive": self._facts()}, identity=self.identity)
        if self.child.selection() is not None:
            return
        self.child.forget_selection()
        tally = Tally()
        for part in self.run.dead_parts():
            selected = self._selected(part, tally)
            if selected.queries.num_rows:
                self.child.write_queries(part, selected.queries)
                self.child.write_decisions(part, selected.decisions)
        self.child.write_selection(
            tally.asked, {"sent": tally.sent, "left": [[*key, n] for key, n in tally.left.items()]}
        )

    def _facts(self) -> dict[str, Any]:
        return {
            "of": self.config.run.id,
            "reasons": self.wanted.reasons,
            "to_model": self.wanted.to_model,
        }

    def _selected(self, part: PartName, tally: Tally) -> Selected:
        letters = self.run.dead_letters_of(part, columns=["query_id", "reason"])
        return self.select(
            self.parent.read_queries(part),
            self.parent.read_decisions(part),
            pa.concat_tables(letters),
            tally,
        )


def _check_reasons(reasons: tuple[str, ...]) -> None:
    for reason in reasons:
        if reason not in REMEDIES:
            raise ConfigError(
                f"--reason {reason}: no dead letter has that reason; there are "
                f"{', '.join(sorted(REMEDIES))}"
            )


def _check_finished(run: RunFolder, job: Job) -> None:
    """Only what a run has given up can be sent again, and by the run's own config."""
    if run.first_start() is None:
        raise RunError(f"{run.url}: no run has begun here: name one that has by --set run.id=…")
    run.begin(job.facts(), identity=job.identity())
    if run.manifest() is None:
        raise RunError(
            f"{run.url} is not finished: finish it by jobs/route_batch.py with this config, then "
            "send its dead letters again"
        )


def _check_same(child: RunFolder, wanted: Wanted) -> None:
    """A redrive that goes on sends what it was begun with."""
    first = child.first_start()
    assert first is not None
    kept = Wanted(tuple(first["redrive"]["reasons"]), first["redrive"]["to_model"])
    if kept.identity() != wanted.identity():
        raise RunError(
            f"{child.url} was begun with {_flags(kept)} and is not finished: give the same again "
            "to finish it, and then start another one"
        )


def _flags(wanted: Wanted) -> str:
    """As on the command line."""
    flags = [f"--reason {reason}" for reason in wanted.reasons]
    flags += [f"--to-model {wanted.to_model}"] if wanted.to_model else []
    return " ".join(flags) or "neither --reason nor --to-model"


def _job(whole: Job, wanted: Wanted, url: str, environ: Mapping[str, str]) -> Job:
    if wanted.to_model is None:
        return replace(whole, run_folder=url)
    return job_of_one(whole, wanted.to_model, key="--to-model", run_folder=url, environ=environ)


def _finish(plan: _Plan) -> Redriven:
    """Count the outcomes, make the run's report again, then write the manifest: last, so that a
    start that is killed before goes on, and finds nothing to send.
    """
    counts, cost_usd = count_outcomes(plan.child)
    written = write_report(plan.parent.url, plan.config)
    plan.child.finish(
        {
            "finished_at": datetime.now(UTC).isoformat(),
            "outcomes": counts,
            "cost_usd": str(cost_usd),
            "summary": written.summary,
            "report": written.page,
        }
    )
    lines = [*_done(plan.child, counts, cost_usd), "the run with it:", *written.summary]
    return Redriven(lines, written.page)


def _done(child: RunFolder, counts: Mapping[str, int], cost_usd: Decimal) -> list[str]:
    selection = child.selection()
    assert selection is not None
    tally = Tally(sent=Counter(selection["sent"]))
    tally.left.update({(reason, why): number for reason, why, number in selection["left"]})
    answered, refused = counts.get("answered", 0), counts.get("refused", 0)
    return [
        f"{_name(child)}: {queries(sum(counts.values()))} sent again, {answered:,} answered, "
        f"{refused:,} refused, {counts.get('dead_letter', 0):,} still dead; {money(cost_usd)}",
        *_sent(tally),
        *_left(tally),
    ]


def _nothing(tally: Tally) -> list[str]:
    if not tally.left:
        return ["nothing is to be sent again: no query is dead"]
    return ["nothing is to be sent again", *_left(tally)]


def _announced(tally: Tally, child: RunFolder) -> list[str]:
    if not tally.asked:
        return _nothing(tally)
    number = sum(tally.sent.values())
    shared = f", {tally.asked:,} of them by a call of their own" if tally.asked < number else ""
    return [
        f"{queries(number)} would be sent again{shared}, as {child.url}",
        *_sent(tally),
        *(f"  to {model:30} {queries(n):>18}" for model, n in tally.models.most_common()),
        *_left(tally),
        f"expected cost {money(tally.expected_usd)}, without fallbacks",
    ]


def _going_on(child: RunFolder) -> list[str]:
    selection = child.selection()
    if selection is None:
        return [f"{child.url} was killed while it chose, and would begin anew"]
    done = sum(table.column("same_as").null_count for table in child.tables("outcomes")())
    return [
        f"{child.url} is not finished, and would go on: {done:,} of "
        f"{queries(selection['queries'])} are kept with their outcomes"
    ]


def _sent(tally: Tally) -> list[str]:
    return [f"  {reason:33} {queries(number):>18}" for reason, number in tally.sent.most_common()]


def _left(tally: Tally) -> list[str]:
    return [
        f"not sent: {number:,} {reason}: {why}"
        for (reason, why), number in tally.left.most_common()
    ]


def _name(child: RunFolder) -> str:
    return f"redrive {child.url.rpartition('/')[2]}"
