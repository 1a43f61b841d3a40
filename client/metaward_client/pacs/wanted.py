"""What of a PACS is wanted: the questions to ask it, and the sieve for its answers.

A PACS may ignore a condition, or compare in a way of its own, so every condition is checked here
again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date

from metaward.errors import ConfigError
from metaward_client.labels import LabelTable, comparable_key
from metaward_client.pacs.archive import Instance, Study, StudyQuery, is_uid
from metaward_client.pacs.settings import SelectSettings
from metaward_client.site_config import LabelKey

STUDY_KEYS = ("study_instance_uid", "patient_id")
"""Keys of the label table that a PACS can be asked for at study level."""


@dataclass(frozen=True)
class Wanted:
    """What is wanted.

    Attributes:
        select: The site's conditions.
        key: What ``keys`` are; ``path`` where everything is wanted, labelled or not.
        keys: Of the label table, comparable.
        spellings: Of the label table, as it has them.
    """

    select: SelectSettings
    key: LabelKey = "path"
    keys: frozenset[str] = field(default=frozenset(), repr=False)
    spellings: frozenset[str] = field(default=frozenset(), repr=False)

    def queries(self) -> Iterator[StudyQuery]:
        """Give what to ask the PACS for."""
        query = StudyQuery(since=self.select.since, until=self.select.until)
        if self.select.studies or self.key == "study_instance_uid":
            studies = set(self.select.studies or self.spellings)
            for uid in sorted(filter(is_uid, studies)):
                yield replace(query, study_uid=uid)
        elif self.key == "patient_id":
            for patient_id in sorted(self.spellings):
                yield replace(query, patient_id=patient_id)
        else:
            for modality in self.modalities():
                yield replace(query, modality=modality)

    def modalities(self) -> tuple[str, ...]:
        """Return the modalities to ask for; an empty one for all."""
        return tuple(dict.fromkeys(self.select.modalities)) or ("",)

    def has_study(self, study: Study) -> bool:
        """Say whether a study may hold what is wanted."""
        if self.select.studies and study.uid not in self.select.studies:
            return False
        if not _within(study.day, self.select.since, self.select.until):
            return False
        return self.key not in STUDY_KEYS or self._key_of_study(study) in self.keys

    def has(self, instance: Instance) -> bool:
        """Say whether an instance of such a study is wanted."""
        modalities = self.select.modalities
        if modalities and instance.modality and instance.modality not in modalities:
            return False
        return self.key == "path" or self.key_of(instance) in self.keys

    def key_of(self, instance: Instance) -> str:
        """Return what the label table would call an instance."""
        if self.key in STUDY_KEYS:
            return self._key_of_study(instance.study)
        value = instance.series_uid if self.key == "series_instance_uid" else instance.sop_uid
        return comparable_key(self.key, value)

    def _key_of_study(self, study: Study) -> str:
        value = study.uid if self.key == "study_instance_uid" else study.patient_id
        return comparable_key(self.key, value)


def wanted_of(select: SelectSettings, table: LabelTable, key: LabelKey) -> Wanted:
    """Return what a site wants.

    Raises:
        ConfigError: A study of the selection is no UID.
    """
    wrong = [number for number, uid in enumerate(select.studies, start=1) if not is_uid(uid)]
    if wrong:
        raise ConfigError(
            f"entries that are no UIDs: number {', '.join(map(str, wrong))}",
            expected="Study Instance UIDs: digits and dots, at most 64",
            where="data.pacs.select.studies",
            next_step="Correct them.",
        )
    if not select.labelled:
        return Wanted(select)
    return Wanted(select, key, frozenset(table.labels_of), table.spellings)


def _within(day: str, since: date | None, until: date | None) -> bool:
    """Say whether a date, as DICOM writes it, is in a range; one that is unknown is in none."""
    if since is None and until is None:
        return True
    if len(day) != 8 or not day.isdecimal():
        return False
    after = since is None or day >= since.strftime("%Y%m%d")
    return after and (until is None or day <= until.strftime("%Y%m%d"))
