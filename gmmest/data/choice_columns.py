"""Which columns of a table of choices play which part."""

from __future__ import annotations

from dataclasses import dataclass

from gmmest.data.columns import require_choice
from gmmest.data.observations import Names, as_names
from gmmest.data.set_roles import RoleColumns

__all__ = ["ChoiceColumns"]


@dataclass(frozen=True, slots=True)
class ChoiceColumns:
    """Columns of a table of choices, and what to do with sets that break a rule.

    The fields are the arguments of :meth:`.ChoiceData.from_frame`.

    Raises
    ------
    ConfigError
        E102: an option that is none of its words.
    """

    case: str
    chosen: str
    alternative: str | None = None
    on_bad_sets: str = "error"
    missing: str = "error"
    weight: str | None = None
    frequency: str | None = None
    cluster: Names = None
    time: str | None = None

    def __post_init__(self) -> None:
        require_choice("on_bad_sets", self.on_bad_sets, ("error", "drop"))
        require_choice("missing", self.missing, ("error", "drop_set"))
        # None, a name and a list of it are said alike, so that stores made of the same columns have one key.
        object.__setattr__(self, "cluster", as_names(self.cluster))

    @property
    def roles(self) -> RoleColumns:
        """Those that say something of a whole set."""
        return RoleColumns(self.weight, self.frequency, self.cluster, self.time)
