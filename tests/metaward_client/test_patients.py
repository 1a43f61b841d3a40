"""Two images are of one patient, or of two: what that is told by."""

from itertools import product

from metaward_client.patients import fingerprint, token


def test_no_two_patients_have_one_token_or_fingerprint() -> None:
    texts = ["".join(letters) for n in range(4) for letters in product("AB", repeat=n)]
    patients = list(product(texts, texts[1:]))  # an issuer may be unknown, an ID may not
    assert len({token(key) for key in patients}) == len(patients)
    assert len({fingerprint(key, b"salt") for key in patients}) == len(patients)
