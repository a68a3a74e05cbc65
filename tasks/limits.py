"""Define the limits that a laboratory may set in slidewatch.toml."""

from pydantic import BaseModel, ConfigDict, Field

TOLERATED = 0.02  # see `FieldLimits`
# About 5,000 cells (a hundred fields of fifty) are enough to show this parasitaemia.
DETECTABLE_PERCENT = 0.06
# A few thousand cells exclude this if one healthy cell in a thousand is called parasitized.
NEGATIVE_PERCENT = 1.0
# For a healthy adult; a patient's own count is better, and anaemia makes it much lower.
RED_CELLS_PER_MICROLITRE = 5e6
# Any failed file makes the night amber; with a quarter of them it is lost.
FAILED_RED = 0.25


class FieldLimits(BaseModel):
    """The limits of a field's quality; the defaults were set on the BCCD fields (see each)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Of 120 fields one is below; of 40 behind a blur of five pixels, all.
    least_sharpness: float = Field(
        0.004, ge=0, description="variance of the Laplacian over that of brightness"
    )
    # Those fields have .69 to .75, and .17 to .19 with a quarter of the light. It is low because
    # the black around an eyepiece's view darkens a photograph.
    least_brightness: float = Field(
        0.25, ge=0, le=1, description="mean of all channels, 0 to 1, below which a field is dark"
    )
    # It is high because of the black around an eyepiece's view.
    most_dark: float = Field(
        0.5, ge=0, le=1, description="share of a field's pixels where a channel is black"
    )
    # At most .0004 of those fields, more than .99 with 1.6 times the light. Scanners may clip the
    # background, so some is harmless.
    most_bright: float = Field(
        0.5, ge=0, le=1, description="share of a field's pixels where a channel is white"
    )
    # Those fields have .12 at most.
    most_overlap: float = Field(
        0.25, ge=0, le=1, description="share of what cells cover that lies in more than one"
    )
    # 0 in all of those fields; a half and more in rendered fields that are thick in places.
    most_packed: float = Field(
        0.25, ge=0, le=1, description="share of a field where hardly any ground is seen"
    )
    least_cells: int = Field(1, ge=0, description="cells of a field that is not empty")
    # One of those fields (.008) is beyond a limit, so a slide of hundreds nearly always has one.
    tolerated: float = Field(
        TOLERATED, ge=0, le=1, description="share of a slide's fields that may be beyond a limit"
    )
