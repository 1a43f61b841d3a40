"""Two images are of one patient, or of two: what that is told by."""

from hypothesis import given
from hypothesis import strategies as st

from metaward_client.patients import PatientKey, fingerprint, token

keys = st.tuples(st.text("AB", max_size=3), st.text("AB", min_size=1, max_size=3))


@given(keys, keys)
def test_two_patients_never_have_one_token_or_fingerprint(
    one: PatientKey, other: PatientKey
) -> None:
    assert (token(one) == token(other)) == (one == other)
    assert (fingerprint(one, b"salt") == fingerprint(other, b"salt")) == (one == other)
