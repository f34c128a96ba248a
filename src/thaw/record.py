"""The base of every result that is written down: typed, frozen, documented field by field, exact as JSON."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A result as a value. Unknown fields are errors, so that what is read is what was written.

    The text under each field is its documentation, which the page on `metrics.json` shows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
