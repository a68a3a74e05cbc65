"""Judge how strange a night is as a whole, even if its cells resemble each other.

A cell is abnormal compared with its neighbours. A night can be strange without abnormal cells: if
all of it comes from another laboratory, or is not blood.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tasks import words
from tasks.smears.counting.call import Call
from tasks.types import Light

# One ordinary slide in forty may be called implausible; more indicates a fault.
IMPLAUSIBLE_RED = 0.05
# By chance, one ordinary slide in N is further away than all N fitted slides.
SHIFTED_AMBER = 0.1
NEW_LABORATORY = 0.5  # share of shifted slides that no known laboratory has
# Share of unreadable patients that makes a night red, and the least number of patients for it: with
# fewer, a few may be unreadable by chance.
UNREADABLE_RED, LEAST_PATIENTS = 0.5, 6
NOBODY = 1.0  # the same for however few patients

WITHOUT_LIMITS = (
    "the detector has no limits of what a smear of blood can be, so a night wholly of rubbish "
    "would look ordinary: run slidewatch fit again on the same batch"
)

Finding = tuple[Light, str]


@dataclass(frozen=True)
class Strangeness:
    """Counts of strange slides, cells and patients; None if the detector cannot say.

    Of the ``slides``, ``implausible`` ones cannot be a smear, and have ``implausible_cells`` of the
    ``scored`` cells; ``shifted`` ones are further away than every fitted slide. Of the diagnoses
    ``looked_at`` again, those ``turned`` were others under a blur, too many if ``turning``.
    ``calls`` counts the patients by call, and ``unreadable``, by reason, those whose slides cannot
    be read because of their images. The detector is ``commissioned`` if it has learned the
    laboratory. Without ``limits`` it accepts any slide as a smear.
    """

    slides: int
    shifted: int
    implausible: int | None
    implausible_cells: int
    scored: int
    looked_at: int
    turned: int
    turning: bool
    unreadable: Mapping[str, int]
    calls: Mapping[str, int]
    commissioned: bool
    limits: bool = True

    def findings(self) -> list[Finding]:
        """List the findings that do not depend on earlier nights."""
        findings: list[Finding] = []
        if self.implausible:
            share = self.implausible_cells / self.scored if self.scored else 0.0
            text = (
                f"{self.implausible:,} of {words.counted(self.slides, 'slide')} cannot be a smear "
                f"of blood ({share:.0%} of the scored images): check what was photographed. Their "
                "cells are compared with the cells of known slides"
            )
            findings.append((Light.RED if share >= IMPLAUSIBLE_RED else Light.AMBER, text))
        if self.turning:
            text = (
                f"{self.turned:,} of {words.counted(self.looked_at, 'diagnosis')} "
                "that were looked at again turn when the image is blurred, as under an attack: do "
                "not believe this batch"
            )
            findings.append((Light.RED, text))
        if self.shifted and self.shifted >= SHIFTED_AMBER * self.slides:
            new = self.shifted >= NEW_LABORATORY * self.slides
            what = (
                "a stain or camera that is not this laboratory's"
                if self.commissioned
                else "a laboratory, stain or camera that the detector does not know: nobody there "
                "is called negative until slidewatch commission, with the same --images and "
                "--batch, has learned it"
            )
            text = (
                f"{self.shifted:,} of {words.counted(self.slides, 'slide')} "
                f"{words.verb(self.shifted, 'is', 'are')} of {what}"
            )
            findings.append((Light.RED if new else Light.AMBER, text))
        if not self.limits:
            findings.append((Light.AMBER, WITHOUT_LIMITS))
        patients = sum(self.calls.values())
        if suspected := self.calls.get(Call.SUSPECTED, 0):
            text = (
                f"{words.counted(suspected, 'patient')} {words.verb(suspected, 'is', 'are')} "
                "suspected: the machine cannot call them, so a person must look at their likeliest "
                "parasites"
            )
            findings.append((Light.AMBER, text))
        if self.unreadable:
            unreadable = sum(self.unreadable.values())
            why = "; ".join(f"{n:,} {reasons}" for reasons, n in sorted(self.unreadable.items()))
            text = (
                f"{unreadable:,} of {words.counted(patients, 'patient')} "
                f"{words.verb(unreadable, 'is', 'are')} unreadable: {why}"
            )
            most = unreadable >= UNREADABLE_RED * max(patients, LEAST_PATIENTS)
            nobody = unreadable >= NOBODY * patients
            findings.append((Light.RED if most or nobody else Light.AMBER, text))
        return findings
