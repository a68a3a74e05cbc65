"""Write numbers as people do."""


def counted(number: int, noun: str) -> str:
    """Write a number of things.

    >>> counted(1, "slide"), counted(2000, "batch"), counted(2, "diagnosis"), counted(3, "day")
    ('1 slide', '2,000 batches', '2 diagnoses', '3 days')
    """
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Write the plural of a noun, whose last word is the one that changes."""
    if noun.endswith("is"):
        return f"{noun[:-2]}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}{'es' if noun.endswith(('ch', 's')) else 's'}"


def verb(number: int, one: str, many: str) -> str:
    """Choose the form of a verb, such as "is" or "are"."""
    return one if number == 1 else many
