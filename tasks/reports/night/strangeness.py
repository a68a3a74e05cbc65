"""Judge how strange a night is as a whole, whatever its cells look like to each other.

Abnormal cells are surprising beside their neighbours. A night can be strange without one: where all
of it is of another laboratory, or no blood at all.
"""

from dataclasses import dataclass

from tasks.types import Light
from tasks.words import counted, verb

# One slide in forty of ordinary ones may be called implausible; more than that is a fault.
IMPLAUSIBLE_RED = 0.05
# One ordinary slide in as many as were fitted is further than all of these, by chance.
SHIFTED_AMBER = 0.1
# Most of a night of fitted laboratories lies within what was fitted.
UNKNOWN_LABORATORY = 0.5
# Share of the patients, and the least number of them, that make a night red: hardly anybody has
# an answer then. A few may be unreadable by chance.
UNREADABLE_RED, LEAST_PATIENTS = 0.5, 6

WITHOUT_LIMITS = (
    "the detector has no limits of what a smear of blood can be, so a night wholly of rubbish "
    "would look ordinary: run slidewatch fit again on the same batch"
)

Finding = tuple[Light, str]


@dataclass(frozen=True)
class Strangeness:
    """Count what is strange about a night; None where the detector does not tell.

    Of ``slides`` some are ``implausible``: they cannot be a smear, and have ``implausible_cells``
    of the night's ``scored`` ones. Others are ``shifted``: further than every fitted slide.
    ``beyond`` are cells beyond the fitted population. ``unreadable`` of ``patients`` have slides
    that cannot be read because of what their images are. ``site`` says where it is judged. Without
    ``limits`` the detector takes any slide for a smear.
    """

    slides: int
    shifted: int
    implausible: int | None
    implausible_cells: int
    scored: int
    beyond: int
    unreadable: int
    patients: int
    site: str | None
    limits: bool = True

    def findings(self) -> list[Finding]:
        """List what a person should know, whatever earlier nights were like."""
        found: list[Finding] = []
        if self.implausible:
            share = self.implausible_cells / self.scored if self.scored else 0.0
            told = (
                f"{self.implausible:,} of {counted(self.slides, 'slide')} cannot be a smear of "
                f"blood ({share:.0%} of the scored images): check what was photographed. Their "
                "cells are compared with the cells of known slides"
            )
            found.append((Light.RED if share >= IMPLAUSIBLE_RED else Light.AMBER, told))
        if self.shifted and self.shifted >= SHIFTED_AMBER * self.slides:
            told = (
                f"{self.shifted:,} of {counted(self.slides, 'slide')} "
                f"{verb(self.shifted, 'is', 'are')} further from known slides than these are from "
                "each other: look at each as a whole; its cells are compared with each other"
            )
            found.append((Light.AMBER, told))
        if self.scored and self.site is None and not self.implausible:
            share = self.beyond / self.scored
            if share >= UNKNOWN_LABORATORY:
                told = (
                    f"{share:.0%} of the scored images are unlike all known slides: this may be "
                    "the first batch of an unknown laboratory; slidewatch commission learns it"
                )
                found.append((Light.AMBER, told))
        if not self.limits:
            found.append((Light.AMBER, WITHOUT_LIMITS))
        if self.unreadable:
            told = (
                f"{self.unreadable:,} of {counted(self.patients, 'patient')} "
                f"{verb(self.unreadable, 'is', 'are')} unreadable, because of what the images show"
            )
            most = self.unreadable >= UNREADABLE_RED * max(self.patients, LEAST_PATIENTS)
            found.append((Light.RED if most else Light.AMBER, told))
        return found
