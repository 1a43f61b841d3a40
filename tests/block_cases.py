"""What tests of a release by blocks share: three blocks, and which patients a key puts in each."""

from metaward_client.privacy.poisson import block_of

KEY = b"a key of the site, of 32 bytes.."
BLOCKS = 3
SEED = (1, 2, 3)


def in_block(block: int, n: int) -> list[str]:
    """Names of patients whom the key puts into a block."""
    names = [f"p{i}" for i in range(60)]
    home = block_of([name.encode() for name in names], BLOCKS, KEY)
    return [name for name, where in zip(names, home, strict=True) if where == block][:n]
