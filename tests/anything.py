"""What exchanges and others may send in the place of any value, for tests that none of it raises."""

import polars as pl
from hypothesis import strategies as st


def _deep(levels: int) -> list[object]:
    found: list[object] = []
    for _ in range(levels):
        found = [found]
    return found


# Around what 32 and 64 bits hold, what datetimes hold, and what is no number.
_EDGES = [
    0,
    1,
    -1,
    *(sign * 2**bits + more for bits in (31, 61, 63, 64, 70) for sign in (1, -1) for more in (-1, 0)),
]
INTEGERS = st.sampled_from(_EDGES) | st.integers()
FLOATS = st.floats() | st.sampled_from([1e-320, 1e18, 1e300, -0.0])
# As Python's json reads it: integers of any size, NaN, halves of surrogate pairs.
TEXTS = st.text(max_size=8) | st.sampled_from(
    ["0000-01-01T00:00:00.000000Z", "9999-12-31T23:59:59.999999Z", "1e999", "nan", "-1", str(2**64), "\ud800"]
)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | INTEGERS | FLOATS | TEXTS,
    lambda values: st.lists(values, max_size=2) | st.dictionaries(TEXTS, values, max_size=2),
    max_leaves=3,
) | st.builds(_deep, st.just(900))


def column_values(kind: pl.DataType) -> st.SearchStrategy[object]:
    """What a column of this type may hold; times as microseconds."""
    if kind == pl.Boolean:
        return st.none() | st.booleans()
    if kind == pl.String:
        return st.none() | st.text(max_size=8)
    if kind == pl.Float64:
        return st.none() | FLOATS
    bits = 31 if kind == pl.Int32 else 63
    return st.none() | INTEGERS.filter(lambda value: -(1 << bits) <= value < 1 << bits)
