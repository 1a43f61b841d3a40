"""The forms that a text in a settings file can have to have, and how each is said to people."""

NAME = r"^[a-z0-9][a-z0-9-]{0,63}$"
SHA256 = r"^[0-9a-f]{64}$"
SHA256_OR_NOTHING = r"^([0-9a-f]{64})?$"
DEVICE = r"^(cpu|cuda(:\d{1,3})?)$"
_LABEL = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = rf"(\[[0-9a-fA-F:.]+\]|{_LABEL}(\.{_LABEL})*)"
_PORT = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
ADDRESS = f"^{_HOST}:{_PORT}$"
ADDRESS_OR_NOTHING = f"^({_HOST}:{_PORT})?$"

IN_WORDS = {
    NAME: "a-z, 0-9 and hyphen, at most 64 of them, and no hyphen at the beginning",
    SHA256: "64 characters of 0-9 and a-f",
    SHA256_OR_NOTHING: "64 characters of 0-9 and a-f, or nothing",
    DEVICE: "cpu, cuda, or cuda:1 with the accelerator's number",
    ADDRESS: "host:port, the port from 1 to 65535",
    ADDRESS_OR_NOTHING: "host:port, the port from 1 to 65535; or nothing",
}
