"""Keep what adapted a diagnosis to a laboratory: a part of a detector's card."""

from storage import records


class AdaptationCard(records.Entry):
    """The adaptation of a diagnosis by labelled cells: ``scale`` and ``bias`` of its log-odds.

    They are those of the detector's own discriminant if ``statistics`` were adapted, too. ``gain``
    is the fall of the log loss on held-back cells, or slides if ``by_slide``. It is ``accepted`` if
    the gain is above 0 (its 95% interval, if not the statistics alone) even with one more error of
    each kind.
    """

    scale: float
    bias: float
    statistics: bool = False
    accepted: bool
    cells: int
    slides: int
    by_slide: bool
    loss_before: float
    loss_after: float
    accuracy_before: records.Share
    accuracy_after: records.Share
    gain: float
    gain_low: float
    gain_high: float

    @property
    def text(self) -> str:
        """Describe the adaptation and its effect to a person."""
        used = "adapted" if self.accepted else "not adapted"
        whose = "the class statistics of " * self.statistics
        held = "slides" if self.by_slide else "cells"
        return (
            f"{used} by {whose}{self.cells:,} labelled cells of {self.slides:,} patients or "
            f"slides: on {held} held back, accuracy {self.accuracy_before:.1%} without and "
            f"{self.accuracy_after:.1%} with, log loss {self.loss_before:.3f} and "
            f"{self.loss_after:.3f} (gain {self.gain_low:.3f} to {self.gain_high:.3f})"
        )
