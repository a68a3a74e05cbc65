"""Keep the limits that a laboratory may set: they stand in slidewatch.toml, and need no arrays."""

from pydantic import BaseModel, ConfigDict, Field

TOLERATED = 0.02  # see `FieldLimits`
# About 5,000 cells, a hundred fields of some fifty, are enough to show this parasitaemia.
DETECTABLE_PERCENT = 0.06
# What a few thousand cells exclude where one healthy cell in a thousand is called parasitized.
NEGATIVE_PERCENT = 1.0
# Of a healthy adult; a patient's own count is better, and anaemia makes it much lower.
RED_CELLS_PER_MICROLITRE = 5e6
# The slowest answers that do come: a tape library behind a mount, a server that restarts.
READ_SECONDS = 120.0


class FieldLimits(BaseModel):
    """Hold the limits of a field's quality; the defaults were set on the BCCD fields (see each)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Of 120 fields one is below; of 40 behind a blur of five pixels, 39.
    least_sharpness: float = Field(
        0.004, ge=0, description="variance of the Laplacian over that of brightness"
    )
    # Those fields have .69 to .75, and .17 to .19 with a quarter of the light. It is low,
    # for the black round an eyepiece's view darkens a photograph that shows it.
    least_brightness: float = Field(
        0.25, ge=0, le=1, description="mean of all channels, 0 to 1, below which a field is dark"
    )
    # It is high because of the black round an eyepiece's view.
    most_dark: float = Field(
        0.5, ge=0, le=1, description="share of a field's pixels where a channel is black"
    )
    # At most .0004 of those fields, more than .99 with 1.6 times the light. Scanners may clip the
    # background alone, so some of it is no harm.
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
    # One of those fields, .008 of them, is beyond a limit: a slide of hundreds would always be.
    tolerated: float = Field(
        TOLERATED, ge=0, le=1, description="share of a slide's fields that may be beyond a limit"
    )
