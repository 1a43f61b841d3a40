"""How many files a process may hold open: a simulation holds one for each hospital.

Decoded images are memory-mapped, and a mapping keeps its file open. Shells commonly allow 1024
files, or 256, where the machine allows many more.
"""

import resource

from metaward.errors import ConfigError

BESIDES = 128
"""What is open beside the hospitals' images: pipes to workers, logs, libraries."""


def allow_open_files(n_hospitals: int) -> None:
    """Raise this process's limit, and that of workers it starts from now on, where it is too low.

    Raises:
        ConfigError: The machine allows this user no more.
    """
    needed = n_hospitals + BESIDES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except ValueError:
        raise ConfigError(
            f"{n_hospitals} hospitals, and at most {hard} open files",
            expected=f"a limit of {needed}: the images of each hospital are an open file",
            where="the limits of this user (ulimit -Hn)",
            next_step="Take fewer hospitals, or have the limit raised.",
        ) from None
