"""Why an instance was not fetched: a closed list, each with a sentence and a next step."""

from enum import StrEnum

from metaward_client.dicom.refusals import Explanation


class Failure(StrEnum):
    """Why an instance, or the list of a study, was not fetched."""

    NO_ANSWER = "no_answer"
    BUSY = "busy"
    INCOMPLETE = "incomplete"
    GONE = "gone"
    FORBIDDEN = "forbidden"
    PACS_ERROR = "pacs_error"
    NOT_UNDERSTOOD = "not_understood"
    NOT_OFFERED = "not_offered"
    NOT_DICOM = "not_dicom"
    OTHER_INSTANCE = "other_instance"
    TOO_LARGE = "too_large"
    SENSELESS_UID = "senseless_uid"
    LISTING_TOO_LONG = "listing_too_long"


EXPLANATIONS: dict[Failure, Explanation] = {
    Failure.NO_ANSWER: Explanation(
        "The PACS could not be reached, or did not answer in time.",
        "Fetch again later; raise data.pacs.timeout_seconds if the PACS is slow.",
    ),
    Failure.BUSY: Explanation(
        "The PACS said that it is too busy, several times.",
        "Fetch again later, with a lower data.pacs.requests_per_second.",
    ),
    Failure.INCOMPLETE: Explanation(
        "The connection ended before the file did, or may have, several times.",
        "Fetch again; if it stays so, ask whoever runs the PACS or the network.",
    ),
    Failure.GONE: Explanation(
        "The PACS lists it, but does not have it any more.",
        "Nothing to do, unless it should be there.",
    ),
    Failure.FORBIDDEN: Explanation(
        "The PACS does not let this account read it.",
        "Ask whoever runs the PACS, if it should.",
    ),
    Failure.PACS_ERROR: Explanation(
        "The PACS answered with an error of its own.",
        "Ask whoever runs the PACS: its log says more.",
    ),
    Failure.NOT_UNDERSTOOD: Explanation(
        "The answer of the PACS is not what the protocol says.",
        "See whether data.pacs names the right service.",
    ),
    Failure.NOT_OFFERED: Explanation(
        "The PACS does not offer this kind of object over DIMSE.",
        "Fetch over DICOMweb, or choose other modalities.",
    ),
    Failure.NOT_DICOM: Explanation(
        "What the PACS sent is no DICOM file, or its header is damaged.",
        "Ask whoever runs the PACS: the stored object may be damaged.",
    ),
    Failure.OTHER_INSTANCE: Explanation(
        "The PACS sent another object than the one asked for.",
        "Ask whoever runs the PACS: its index and its store differ.",
    ),
    Failure.TOO_LARGE: Explanation(
        "The file is larger than this program takes; see docs/pacs.md for the bound.",
        "Copy it into the folder by hand, or leave it out.",
    ),
    Failure.SENSELESS_UID: Explanation(
        "The PACS lists it under UIDs that are none, so it cannot be asked for.",
        "Ask whoever runs the PACS to correct it.",
    ),
    Failure.LISTING_TOO_LONG: Explanation(
        "The PACS lists more than this program takes; see docs/pacs.md for the bounds.",
        "Narrow data.pacs.select by days or studies; if it stays so, ask whoever runs the PACS.",
    ),
}
