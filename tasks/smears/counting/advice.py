"""Advise what to do after photographs of a patient."""

from tasks.smears.counting.call import CONFIRMED, Call

MOST_FIELDS = 100  # photographs that somebody would still take
ENOUGH_FIELDS = 20
FIELDS = "photograph 20 fields of the patient into a folder, and give slidewatch screen that folder"


def next_text(call: str, cells: int, needed: int | None, photographs: int = 1) -> str:
    """Write what to do after photographs; ``needed`` cells would decide, with as large a share.

    >>> next_text("indeterminate", 80, 240)
    'One photograph is too few for a call: with 2 more like it the patient would be suspected'
    >>> next_text("indeterminate", 80, 240, 4)
    '4 photographs are too few for a call: with 8 more like these the patient would be suspected'
    """
    if call in CONFIRMED:
        seen = "A person must look at these cells"
        return f"{seen}. For a parasitaemia {FIELDS}" if photographs < ENOUGH_FIELDS else seen
    if call == Call.UNREADABLE:
        return "Photograph the smear again, sharp and without writing, or have a person read it"
    if call != Call.INDETERMINATE:
        return ""
    more = 0 if needed is None else -(-needed * photographs // max(cells, 1)) - photographs
    is_near = 0 < more <= MOST_FIELDS
    if photographs >= ENOUGH_FIELDS and not is_near:
        return "Have a person read the smear, or teach slidewatch this laboratory: commission"
    have = "One photograph is" if photographs == 1 else f"{photographs:,} photographs are"
    like = "it" if photographs == 1 else "these"
    what = f"with {more} more like {like} the patient would be suspected" if is_near else FIELDS
    return f"{have} too few for a call: {what}"
