"""A line of progress that also carries its numbers, for who can draw them."""

from __future__ import annotations

__all__ = ["Advance", "Counted"]


class Counted(str):
    """A line that says how far something is; as text it is the whole line.

    Attributes:
        done: Steps that are done.
        total: Steps of the whole.
    """

    done: int
    total: int

    def __new__(cls, text: str, *, done: int, total: int) -> Counted:
        """Make the line; `text` says what is being done before a colon."""
        made = super().__new__(cls, text)
        made.done, made.total = done, total
        return made


class Advance(str):
    """What is being done and how far it is; as text it is the whole line.

    Attributes:
        done: Steps that are done.
        total: Steps of the whole, 0 where nobody knows.
        loss: Loss of the last step.
        best: Least held-out loss so far.
        accuracy: Share of held-out samples that are right (without labels: as the float model says), or None.
        passes: Samples sent through the device or its twin.
        vectors: Vectors that the attached device was driven by; None without one.
    """

    done: int
    total: int
    loss: float
    best: float
    accuracy: float | None
    passes: int
    vectors: int | None

    def __new__(
        cls,
        what: str,
        *,
        done: int,
        total: int,
        loss: float,
        best: float,
        passes: int,
        accuracy: float | None = None,
        vectors: int | None = None,
    ) -> Advance:
        """Make the line; `what` is its beginning, before the colon."""
        where = f"step {done} of {total}" if total else f"held-out check {done}"
        words = [f"{what}: {where}", f"loss {loss:.4f}", f"best held-out {best:.4f}"]
        words += [] if accuracy is None else [f"accuracy {100 * accuracy:.2f} %"]
        words += [f"{passes} passes"] + ([] if vectors is None else [f"{vectors} vectors on the device"])
        made = super().__new__(cls, ", ".join(words))
        made.done, made.total, made.loss, made.best = done, total, loss, best
        made.accuracy, made.passes, made.vectors = accuracy, passes, vectors
        return made

    def on_device(self, vectors: int) -> Advance:
        """The same with the number of vectors that the attached device was driven by."""
        return Advance(
            self.partition(":")[0],
            done=self.done,
            total=self.total,
            loss=self.loss,
            best=self.best,
            passes=self.passes,
            accuracy=self.accuracy,
            vectors=vectors,
        )
