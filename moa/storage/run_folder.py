"""What a run leaves behind, and goes on from; the layout is in ARCHITECTURE.md.

Every file is whole or absent, so a killed process leaves nothing half-written. What counts as done
is a matter of names: a part that has decisions is decided, a piece that has outcomes is finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from moa.catalog import Lane
from moa.errors import RunError
from moa.storage.duplicates import DUPLICATES, Found
from moa.storage.journal_files import JournalFiles, Sink
from moa.storage.object_store import Folder
from moa.storage.query_log import Partition
from moa.storage.run_identity import change

NOBODY = "none"
"""In a piece's name: the rows of its part that go to no provider."""
BATCH: Lane = "batch"
_IN_BATCHES = f".{BATCH}"
_REDRIVES = "/redrives/"
_PLAN = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY


class PartName(NamedTuple):
    """A run of consecutive rows of one partition."""

    partition: int
    first_row: int
    end_row: int
    """The row after the last."""

    def __str__(self) -> str:
        return f"{self.partition:05d}-{self.first_row:012d}-{self.end_row:012d}"

    @classmethod
    def parse(cls, name: str) -> PartName:
        """The part that `str` gave this name."""
        return cls(*map(int, name.split("-")))


class PieceName(NamedTuple):
    """What one part has for one provider: to be bought at once, or in batches."""

    part: PartName
    provider: str
    in_batches: bool = False

    def __str__(self) -> str:
        return f"{self.part}.{self.queue}"

    @property
    def queue(self) -> str:
        """Where it waits for its turn; a provider's batches are a queue of their own."""
        return f"{self.provider}{_IN_BATCHES}" if self.in_batches else self.provider

    @classmethod
    def parse(cls, name: str) -> PieceName:
        """The piece that `str` gave this name."""
        part, _, queue = name.partition(".")
        return cls(
            PartName.parse(part), queue.removesuffix(_IN_BATCHES), queue.endswith(_IN_BATCHES)
        )


class RunFolder:
    """One run's folder."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._folder = Folder(url)

    @cached_property
    def _journals(self) -> JournalFiles:
        return JournalFiles(self._folder)

    # What the run is.

    def begin(self, facts: Mapping[str, Any], *, identity: Mapping[str, str]) -> dict[str, Any]:
        """Keep the facts of a run's first start; a later start is given those of the first.

        Args:
            facts: what a reader of the results should know.
            identity: what decides who is asked what, by name; the same at every start.

        Raises:
            RunError: the folder belongs to a run with another identity.
        """
        document = {**facts, "identity": identity}
        self._folder.create("config.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))
        kept = self._document("config.json")
        assert kept is not None
        for name, ours in identity.items():
            if kept["identity"][name] != ours:
                remedy = (
                    "give what its config.json says to finish it, or --abandon to close it"
                    if is_redrive(self.url)
                    else "go on with what its config.json says, or give this run an id of its "
                    "own: --set run.id=…"
                )
                raise RunError(
                    f"{self.url} was begun with another {name} "
                    f"({change(name, kept, document)}): {remedy}"
                )
        return kept

    def note_start(self, number: int, facts: Mapping[str, Any]) -> None:
        """Keep when a start of the run was at work; written again while it is."""
        self._folder.put(f"starts/{number:03d}.json", orjson.dumps(facts))

    def starts(self) -> list[dict[str, Any]]:
        """What `note_start` has kept, oldest first."""
        names = self._folder.names("starts")
        documents = [self._document(f"starts/{name}") for name in names]
        return [document for document in documents if document is not None]

    def first_start(self) -> dict[str, Any] | None:
        """What `begin` has kept; `None` before the first start."""
        return self._document("config.json")

    def manifest(self) -> dict[str, Any] | None:
        """The manifest of a finished run; `None` of any other."""
        return self._document("manifest.json")

    def finish(self, facts: Mapping[str, Any]) -> None:
        """Write the manifest: the run is over."""
        self._journals.remove_all()
        files = {name: size for name, size in self._folder.sizes("") if not _passing(name)}
        document = {**facts, "files": files}
        self._folder.create("manifest.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))

    # What the scan found.

    def has_scan(self, partitions: Sequence[Partition]) -> bool:
        """Whether an earlier start has scanned the backlog.

        Raises:
            RunError: it scanned another one.
        """
        document = self._document("scan.json")
        if document is None:
            return False
        if document["partitions"] != [asdict(p) for p in partitions]:
            raise RunError(
                f"the query log has changed since {self.url} was begun: put back what "
                "its scan.json lists, or give this run an id of its own: --set run.id=…"
            )
        return True

    def write_scan(self, partitions: Sequence[Partition], found: Found) -> None:
        """Keep what a scan of the backlog has found; `scan.json` is the commit."""
        self._folder.put_table("scan/duplicates.parquet", found.duplicates)
        document = {
            "rows": found.rows,
            "queries": found.queries,
            "partitions": [asdict(p) for p in partitions],
        }
        self._folder.put("scan.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))

    def scanned_queries(self) -> int:
        """Queries that are asked or buried: the log's rows, less those that an equal one answers.

        Raises:
            RunError: the backlog has not been scanned.
        """
        document = self._document("scan.json")
        if document is None:
            raise RunError(f"{self.url} has no scan.json: the backlog has not been scanned")
        return int(document["queries"])

    def read_duplicates(self, partition: int) -> pa.Table:
        """The rows of `DUPLICATES` in one partition."""
        table = self._folder.read_table(
            "scan/duplicates.parquet", filters=[("partition", "=", partition)]
        )
        return table.cast(DUPLICATES)

    # What is sent again.

    def redrive(self, number: int) -> RunFolder:
        """The folder of a redrive, from 1, there or not: a run of its own inside this one."""
        return RunFolder(f"{self.url}{_REDRIVES}{number:03d}")

    def redrives(self) -> list[RunFolder]:
        """The redrives that have begun, in order."""
        number = 1
        while self._folder.has(f"redrives/{number:03d}/config.json"):
            number += 1
        return [self.redrive(n) for n in range(1, number)]

    def forget_selection(self) -> None:
        """Delete the parts of a redrive that was killed before all of them were chosen."""
        for name in ("decisions", "queries"):
            self._folder.remove_all(name)

    def forget(self) -> None:
        """Delete a redrive that nothing has come of, so that it can begin anew."""
        self._folder.remove("scan.json")  # first: without it the rest counts for nothing
        self.forget_selection()
        for name in ("journal", "dead_letters", "starts"):
            self._folder.remove_all(name)
        self._folder.remove("config.json")

    def note_abandoned(self) -> None:
        """Keep that a redrive is not gone on with: it can only be closed."""
        self._folder.put("abandoned.json", b"{}")

    def is_abandoned(self) -> bool:
        """Whether `note_abandoned` was called."""
        return self._folder.has("abandoned.json")

    def write_selection(self, queries: int, facts: Mapping[str, Any]) -> None:
        """Keep how many queries a redrive asks: from now on its parts are chosen."""
        document = {"queries": queries, **facts}
        self._folder.put("scan.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))

    def selection(self) -> dict[str, Any] | None:
        """What `write_selection` has kept; `None` before."""
        return self._document("scan.json")

    # What was planned.

    def write_plan(self, plan: Mapping[str, Any]) -> int:
        """Keep a plan; its number, from 0."""
        number = len(self._folder.names("plan"))
        self._folder.put(f"plan/{number:03d}.json", orjson.dumps(plan, option=_PLAN))
        return number

    def plans(self) -> list[dict[str, Any]]:
        """What `write_plan` has kept, oldest first."""
        documents = [self._document(f"plan/{name}") for name in self._folder.names("plan")]
        return [document for document in documents if document is not None]

    # What was decided.

    def write_queries(self, part: PartName, queries: pa.Table) -> None:
        """Keep a part's queries; the text that the router has read is not kept."""
        self._folder.put_table(f"queries/{part}.parquet", queries)

    def write_decisions(self, part: PartName, decisions: pa.Table) -> None:
        """Keep a part's decisions: from now on it is decided."""
        self._folder.put_table(f"decisions/{part}.parquet", decisions)

    def scored_parts(self) -> list[PartName]:
        """The parts whose queries are kept, decided on or not, in order."""
        return [PartName.parse(_stem(name)) for name in self._folder.names("queries")]

    def decided_parts(self) -> list[PartName]:
        """The parts that need not be scored again, in order."""
        return [PartName.parse(_stem(name)) for name in self._folder.names("decisions")]

    def pieces_of(self, part: PartName) -> list[tuple[PieceName, int]]:
        """A part's pieces, each with its number of queries."""
        return pieces_in(part, self.read_decisions(part, columns=["provider", "lane"]))

    def read_queries(self, part: PartName, *, columns: Sequence[str] | None = None) -> pa.Table:
        """A part's `SCORED_QUERIES`."""
        return self._folder.read_table(f"queries/{part}.parquet", columns=columns)

    def read_decisions(self, part: PartName, *, columns: Sequence[str] | None = None) -> pa.Table:
        """A part's `ROUTING_DECISIONS`."""
        return self._folder.read_table(f"decisions/{part}.parquet", columns=columns)

    # What came of it.

    def write_dead_letters(self, piece: PieceName, letters: pa.Table) -> None:
        """Keep what a redrive needs of a piece."""
        self._folder.put_table(f"dead_letters/{piece}.parquet", letters)

    def write_outcomes(self, piece: PieceName, outcomes: pa.Table) -> None:
        """Keep a piece's outcomes: from now on it is finished."""
        self._folder.put_table(f"outcomes/{piece}.parquet", outcomes)

    def finished_pieces(self) -> list[PieceName]:
        """The pieces that need not be dispatched again, in order."""
        return [PieceName.parse(_stem(name)) for name in self._folder.names("outcomes")]

    def open_pieces(self) -> list[PieceName]:
        """The pieces that were decided and are not finished, in order."""
        finished = set(self.finished_pieces())
        pieces = (piece for part in self.decided_parts() for piece, _ in self.pieces_of(part))
        return [piece for piece in pieces if piece not in finished]

    def dead_letter_pieces(self) -> list[PieceName]:
        """The pieces that have dead letters, in order; of a killed run, unfinished ones too."""
        return [PieceName.parse(_stem(name)) for name in self._folder.names("dead_letters")]

    def read_dead_letters(
        self, piece: PieceName, *, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """A piece's `DEAD_LETTERS`."""
        return self._folder.read_table(f"dead_letters/{piece}.parquet", columns=columns)

    def read_outcomes(self, piece: PieceName, *, columns: Sequence[str] | None = None) -> pa.Table:
        """A piece's `OUTCOMES`."""
        return self._folder.read_table(f"outcomes/{piece}.parquet", columns=columns)

    def tables(self, folder: str) -> Callable[[], Iterator[pa.Table]]:
        """The tables of `decisions`, `outcomes` or `dead_letters`, one file at a time."""

        def read() -> Iterator[pa.Table]:
            for name in self._folder.names(folder):
                yield self._folder.read_table(f"{folder}/{name}")

        return read

    def begun_pieces(self) -> set[PieceName]:
        """The pieces that have a journal, or are finished."""
        journals = {PieceName.parse(name) for name in self._journals.pieces()}
        return journals.union(self.finished_pieces())

    def open_journal(self, piece: PieceName) -> Sink:
        """A new journal for the next try at a piece."""
        return self._journals.open(str(piece))

    def read_journals(self, piece: PieceName) -> Iterable[bytes]:
        """What earlier tries at a piece have left, oldest first. Their writers can write no more.

        Raises:
            RunError: a writer on this machine is still alive.
        """
        return self._journals.read(str(piece))

    def peek_journals(self, piece: PieceName) -> Iterable[bytes]:
        """As `read_journals`, as far as they are written by now; their writers go on."""
        return self._journals.peek(str(piece))

    def remove_journals(self, piece: PieceName) -> None:
        """Its outcomes are written: a piece's journals have done their work."""
        self._journals.remove(str(piece))

    def is_finished(self, piece: PieceName) -> bool:
        """Whether a piece's outcomes are written."""
        return self._folder.has(f"outcomes/{piece}.parquet")

    def write_report(self, name: str, data: bytes) -> str:
        """Keep a file of the report; where it is."""
        self._folder.put(f"report/{name}", data)
        return f"{self.url}/report/{name}"

    def _document(self, name: str) -> dict[str, Any] | None:
        data = self._folder.read(name)
        return None if data is None else orjson.loads(data)


def pieces_in(part: PartName, decisions: pa.Table) -> list[tuple[PieceName, int]]:
    """The pieces that a part's decisions make, each with its number of queries."""
    groups = decisions.select(["provider"]).append_column(
        "in_batches", pc.fill_null(pc.equal(decisions.column("lane"), BATCH), False)
    )
    counts = groups.group_by(["provider", "in_batches"]).aggregate([([], "count_all")])
    return sorted(
        (PieceName(part, one["provider"] or NOBODY, one["in_batches"]), one["count_all"])
        for one in counts.to_pylist()
    )


def rows_of(piece: PieceName, decisions: pa.Table) -> pa.ChunkedArray:
    """Which rows of its part's decisions, with provider and lane, are a piece's: a mask."""
    in_batches = pc.equal(decisions.column("lane"), BATCH)
    return pc.and_(
        pc.equal(decisions.column("provider"), piece.provider),
        in_batches if piece.in_batches else pc.invert(in_batches),
    )


def is_redrive(url: str) -> bool:
    """Whether a run's folder is that of a redrive, inside another run's."""
    return _REDRIVES.strip("/") == url.rstrip("/").split("/")[-2:][0]


def _stem(name: str) -> str:
    return name.removesuffix(".parquet")


def _passing(name: str) -> bool:
    """Whether a file is not part of what a run leaves behind."""
    return name.startswith(("lock", "manifest.json", "journal/"))
