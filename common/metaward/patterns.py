"""The forms that a text in a settings file can have to have, and how each is said to people."""

NAME = r"^[a-z0-9][a-z0-9-]{0,63}$"
SHA256 = r"^[0-9a-f]{64}$"
SHA256_OR_NOTHING = r"^([0-9a-f]{64})?$"
DEVICE = r"^(cpu|cuda(:\d{1,3})?)$"
ADDRESS = r"^(\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$"

IN_WORDS = {
    NAME: "a-z, 0-9 and hyphen, at most 64 of them, and no hyphen at the beginning",
    SHA256: "64 characters of 0-9 and a-f",
    SHA256_OR_NOTHING: "64 characters of 0-9 and a-f, or nothing",
    DEVICE: "cpu, cuda, or cuda:1 with the accelerator's number",
    ADDRESS: "host:port",
}
